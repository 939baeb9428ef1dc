-- migrate:up

-- The application's own table. One that exists keeps everything it has and only gets the columns it
-- lacks; one that is created here starts with row level security on, because it holds tokens.
do $$
declare
    is_new constant boolean := to_regclass('public.evolution_instances') is null;
begin
    if is_new then
        create table public.evolution_instances (
            id uuid primary key default gen_random_uuid(),
            instance_name text not null unique,
            instance_token text,
            instance_status text not null default 'creating' check (
                instance_status in ('creating', 'disconnected', 'connecting', 'connected', 'error')
            ),
            qr_code text,
            last_qr_update timestamptz,
            created_at timestamptz not null default now(),
            updated_at timestamptz not null default now()
        );
        alter table public.evolution_instances enable row level security;
        create index evolution_instances_instance_status_idx
        on public.evolution_instances (instance_status);

        comment on table public.evolution_instances is
        'WhatsApp instances of Evolution API, one row each. Belongs to the application.';
        comment on column public.evolution_instances.instance_name is 'Name of the instance in Evolution API.';
        comment on column public.evolution_instances.instance_token is
        'Secret: API key of the instance, sent as the header apikey.';
        comment on column public.evolution_instances.instance_status is
        'State as the application sees it. The job serves rows that are connecting.';
    else
        if not exists (
            select from pg_catalog.pg_attribute
            where attrelid = 'public.evolution_instances'::regclass and attname = 'instance_name'
        ) then
            raise exception using
                errcode = 'undefined_column',
                message = 'table public.evolution_instances has no column instance_name',
                hint = 'The job needs the table that lists the instances of Evolution API. '
                    'Rename the other table, or add the column and fill it.';
        end if;
        alter table public.evolution_instances
        add column if not exists id uuid default gen_random_uuid(),
        add column if not exists instance_token text,
        add column if not exists instance_status text not null default 'creating',
        add column if not exists qr_code text,
        add column if not exists last_qr_update timestamptz,
        add column if not exists created_at timestamptz not null default now(),
        add column if not exists updated_at timestamptz not null default now();
    end if;
end
$$;

comment on column public.evolution_instances.qr_code is
'QR code to scan, as data:image/png;base64,... Written by refresh_qr_codes().';
comment on column public.evolution_instances.last_qr_update is
'When refresh_qr_codes() last wrote qr_code.';

grant usage on schema public to qr_refresh_owner;
grant select (instance_name, instance_token, instance_status), update (qr_code, last_qr_update)
on public.evolution_instances to qr_refresh_owner;

-- migrate:down
-- Nothing: there is no way back to an older schema but a backup. README.md tells how to uninstall.
