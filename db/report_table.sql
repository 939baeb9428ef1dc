-- One of the last steps of every installation: says what keeps the application's table from being
-- of use, as doctor() does. Not of a foreign table, whose server is not asked here.
do $$
declare
    finding record;
begin
    if (
        select c.relkind = 'f' from pg_catalog.pg_class as c
        where c.oid = 'public.evolution_instances'::regclass
    ) then
        return;
    end if;
    for finding in
        select d."check", d.detail, d.fix
        from qr_refresh.doctor_instances() as d
        where
            d.ok is not true
            and d."check" in ('view can be written', 'view shows all rows', 'connecting instances')
            and (d.ok = false or d.fix ~ 'CREATE ')
    loop
        raise warning using
            message = format('%s: %s', finding."check", finding.detail),
            hint = finding.fix;
    end loop;
end
$$;
