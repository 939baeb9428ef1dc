-- qr_refresh.show_qr(): a stored QR code as text, to scan from psql.
create or replace function qr_refresh.show_qr(
    instance_name text, light_background boolean default false
)
returns text
language plpython3u stable parallel restricted security definer
set search_path = pg_catalog, pg_temp
-- Compiling our queries takes longer than running them.
set jit = off
-- A caller could otherwise have the plans of our queries shown, and what is in them.
set debug_print_parse = off
set debug_print_rewritten = off
set debug_print_plan = off
as $python$
    import base64
    import io
    from typing import Any

    encoding = plpy.execute("select current_setting('server_encoding') as name")[0]["name"]
    if encoding != "UTF8":
        plpy.error(
            "a QR code cannot be shown in this database",
            detail=f"The block characters are not in its encoding, {encoding}.",
            hint="Show the column qr_code in a browser: it is a data URL.",
            sqlstate="QR008",
        )
    try:
        from PIL import Image
    except ImportError:
        plpy.error(
            "the Python library Pillow is missing on the database server",
            detail="show_qr() reads the stored picture with it; the job itself does without.",
            hint="On the server, Debian or Ubuntu: apt install python3-pil; then a new session.",
            sqlstate="QR005",
        )

    found = plpy.execute(
        plpy.prepare(
            "select qr_code::text from public.evolution_instances where instance_name::text = $1",
            ["text"],
        ),
        [instance_name],
    )
    if not found:
        plpy.error(
            "there is no such instance",
            detail="No row of evolution_instances has this instance_name.",
            hint="Names are case-sensitive: SELECT instance_name FROM evolution_instances;",
            sqlstate="QR001",
        )
    stored = found[0]["qr_code"]
    if not stored:
        plpy.error(
            "this instance has no QR code",
            detail="Its qr_code is empty.",
            hint="SELECT refresh_qr_codes('NAME'); says why there is none.",
            sqlstate="QR006",
        )

    def read_modules(data_url: str) -> list[list[bool]]:
        """Returns the dark modules of a QR picture, row by row; raises ValueError."""
        png = base64.b64decode(data_url.split(",", 1)[-1], validate=True)
        # Only PNG, and only of a sane size: the picture comes from another server.
        picture: Any = Image.open(io.BytesIO(png), formats=["PNG"])
        if max(picture.size) > 2000:
            raise ValueError
        # On white, because what is transparent would turn black.
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        dark = picture.convert("L").point(lambda level: 255 * (level < 160))
        left, top, right, bottom = dark.getbbox() or (0, 0, 0, 0)
        # The finder pattern in the corner begins with seven dark modules in a row.
        width = right - left
        run = next((x for x in range(width) if not dark.getpixel((left + x, top))), 0)
        count = round(width / (run / 7)) if run else 0
        # QR codes have 21, 25, 29 ... 177 modules a side.
        if count % 4 != 1 or not 21 <= count <= 177 or abs(width - (bottom - top)) > 2:
            raise ValueError
        middle = [int((i + 0.5) * width / count) for i in range(count)]
        return [[bool(dark.getpixel((left + x, top + y))) for x in middle] for y in middle]

    try:
        modules = read_modules(stored)
    except Exception:  # Pillow has many ways to refuse a file
        plpy.error(
            "the stored qr_code is not a picture of a QR code",
            detail="It must be data:image/png;base64,... with one QR code and nothing else.",
            hint="SELECT refresh_qr_codes('NAME'); stores a new one.",
            sqlstate="QR007",
        )

    # A light margin of four modules, which a scanner needs; and an even number of rows.
    side = len(modules) + 8
    margin = [False] * 4
    rows: list[list[bool]] = [margin + row + margin for row in modules]
    rows = [[False] * side] * 4 + rows + [[False] * side] * (5 if side % 2 else 4)
    # Two modules a character: (upper, lower) of what is drawn in the terminal's text colour.
    blocks = {(True, True): "█", (True, False): "▀", (False, True): "▄", (False, False): " "}
    ink = bool(light_background)
    return "\n".join(
        "".join(blocks[upper == ink, lower == ink] for upper, lower in zip(*pair, strict=True))
        for pair in zip(rows[::2], rows[1::2], strict=True)
    )
$python$;

comment on function qr_refresh.show_qr(text, boolean) is
'The stored QR code of an instance as text of block characters, to scan from psql: SELECT qr_refresh.show_qr(''NAME'');
instance_name: which one. light_background: true for a terminal with dark text on light; the default is light text on dark.
Returns the lines, with the margin that a scanner needs.
Errors: QR001 no row has this instance_name; QR005 Pillow (python3-pil) is missing on the server; QR006 no QR code is stored; '
'QR007 what is stored is not a picture of a QR code; QR008 the database''s encoding lacks the block characters.
Privileges: EXECUTE for service_role; whoever sees a QR code can link a phone to the instance. Runs with the privileges of qr_refresh_owner.';
