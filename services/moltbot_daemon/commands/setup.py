"""`init`, `config`, `keys`."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from moltbot_daemon.commands.checks import named_files, refuse_broken
from moltbot_daemon.commands.shell import OK, Shell, tell
from moltbot_daemon.settings import Settings
from moltbot_mesh.api_keys import ADMINISTRATORS, ApiKey, ApiKeys
from moltbot_mesh.audit.administration import SPILL, administration_event
from moltbot_mesh.errors import NotFound
from moltbot_mesh.identity import load_mesh_key
from moltbot_mesh.keyvalue import EtcdKeyValueStore, FileKeyValueStore, KeyValueStore
from moltbot_mesh.second_factor import FactorPolicy, SecondFactors, second_factors
from moltbot_mesh.settings import Section
from moltbot_router.source import read_table

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ADMIN_TENANT = "default"
_PASSWORD = re.compile(r"(?<=://)[^/@\s]+(?=@)|(?<=[?&]password=)[^&\s]+")


async def with_store(shell: Shell, work: Callable[[KeyValueStore], Awaitable[Any]]) -> Any:
    """Run something on the store of the installation: etcd if it is configured, else files."""
    endpoints = shell.settings.etcd.endpoints
    if not endpoints:
        return await work(FileKeyValueStore(shell.places.store_dir))
    from moltbot_mesh.etcd import EtcdClient  # noqa: PLC0415 - one node needs no etcd

    client = EtcdClient(endpoints)
    try:
        return await work(EtcdKeyValueStore(client, f"{shell.settings.etcd.prefix}/store/"))
    finally:
        await client.close()


def commented_configuration(shell: Shell) -> str:
    """The default configuration with what each key means."""
    lines = ["# moltbot's configuration. Every key may be left out; shown are the defaults.", ""]
    lines += _commented(Settings, "", {"data_dir": str(shell.settings.data_dir)})
    return "\n".join(lines) + "\n"


def _commented(section: type[Section], indent: str, given: dict[str, str]) -> list[str]:
    lines: list[str] = []
    for name, info in section.model_fields.items():
        annotation = info.annotation
        nested = isinstance(annotation, type) and issubclass(annotation, Section)
        about = info.description or (annotation.__doc__ or "").strip().splitlines()[0] if nested else info.description
        lines += [f"{indent}# {line}" for line in (about or "").splitlines()]
        if nested:
            lines.append(f"{indent}{name}:")
            lines += _commented(annotation, indent + "  ", {})  # type: ignore[arg-type]
            lines.append("")
            continue
        default = info.get_default(call_default_factory=True)
        value = given.get(name, _plain(default))
        text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
        lines.append(f"{indent}{name}: {text}")
    return lines


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]  # type: ignore[misc]
    return value


def init(shell: Shell) -> int:
    """Write the configuration, the data directory, the keys and the first admin key. Never overwrites."""
    found = shell.made()
    written: list[str] = []
    config = shell.config_file or Path("moltbot.yaml")
    if not config.exists():
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(commented_configuration(shell))
        written.append(str(config))
    if not found.mesh_key_file.exists():
        written.append(str(found.mesh_key_file))
    load_mesh_key(found.mesh_key_file)
    key = asyncio.run(first_admin_key(shell))
    result = {"config": str(config), "data_dir": str(found.data_dir), "written": written, "admin_key": key}
    said = [f"wrote {path}" for path in written] or ["nothing to do: everything is there"]
    if key:
        said += said_of_first(shell, key)
    shell.show(result, "\n".join(said))
    return OK


async def first_admin_key(shell: Shell) -> str | None:
    """Make the first admin key.

    Returns:
        Its text; `None` if there are keys already.
    """

    async def work(store: KeyValueStore) -> str | None:
        keys = ApiKeys(store)
        if await keys.list():
            return None
        key, text = await keys.create(ADMIN_TENANT, frozenset({"admin", "user"}), "first")
        _record(shell, "keys create", key.id, key.tenant)
        return text

    return await with_store(shell, work)


def said_of_first(shell: Shell, key: str) -> list[str]:
    """What is shown of the first admin key, in lines: its text, and what it still lacks."""
    lines = [f"admin key of tenant {ADMIN_TENANT} (shown once): {key}"]
    if shell.settings.security.policy() is not None:
        lines.append(f"its role admin counts with a second factor: `moltbot keys enrol {key.split('_')[1]}`")
    return lines


def _record(shell: Shell, action: str, target: str, tenant: str) -> None:
    """Enter an act of administration in the log, by a file that the audit service takes."""
    administration_event(shell.made().data_dir / SPILL, action, target, tenant)


def keys_create(shell: Shell) -> int:
    """Make an API key; prints it alone, once."""
    shell.made()
    roles = frozenset({"admin", "user"} if shell.args.admin else shell.args.role or {"user"})

    async def work(store: KeyValueStore) -> tuple[ApiKey, str]:
        return await ApiKeys(store).create(shell.args.tenant, roles, shell.args.name or "")

    key, text = asyncio.run(with_store(shell, work))
    _record(shell, "keys create", key.id, key.tenant)
    if key.roles & ADMINISTRATORS and shell.settings.security.policy() is not None:
        tell(f"moltbot: an administrator needs a second factor: `moltbot keys enrol {key.id}`")
    shell.show({"id": key.id, "tenant": key.tenant, "roles": sorted(key.roles), "key": text}, text)
    return OK


def keys_enrol(shell: Shell) -> int:
    """Enrol a device as an administrator's second factor; prints its URI alone, once."""

    async def work(store: KeyValueStore) -> tuple[ApiKey, str]:
        key = await _key(store, shell.args.id)
        return key, await _factors(shell, store).enrol(key.id, f"{key.id} of {key.tenant}")

    key, uri = asyncio.run(with_store(shell, work))
    _record(shell, "keys enrol", key.id, key.tenant)
    tell("moltbot: give this to an authenticator app (as a QR code, for example with qrencode); it is shown once")
    shell.show({"id": key.id, "uri": uri}, uri)
    return OK


def keys_unlock(shell: Shell) -> int:
    """End the lock of an administrator's key after wrong codes."""

    async def work(store: KeyValueStore) -> ApiKey:
        key = await _key(store, shell.args.id)
        await _factors(shell, store).unlock(key.id)
        return key

    key = asyncio.run(with_store(shell, work))
    _record(shell, "keys unlock", key.id, key.tenant)
    shell.show({"id": key.id}, f"unlocked {key.id}")
    return OK


async def _key(store: KeyValueStore, key_id: str) -> ApiKey:
    for key in await ApiKeys(store).list():
        if key.id == key_id and key.revoke_time_s is None:
            return key
    raise NotFound(f"no API key in force has the id {key_id!r}; `moltbot keys list` shows them")


def _factors(shell: Shell, store: KeyValueStore) -> SecondFactors:
    policy = shell.settings.security.policy() or FactorPolicy()
    return second_factors(store, load_mesh_key(shell.made().mesh_key_file), policy)


def keys_list(shell: Shell) -> int:
    """Show all keys, never their text."""

    async def work(store: KeyValueStore) -> list[ApiKey]:
        return await ApiKeys(store).list()

    keys: list[ApiKey] = asyncio.run(with_store(shell, work))
    rows: list[dict[str, Any]] = [
        {
            "id": key.id,
            "tenant": key.tenant,
            "roles": sorted(key.roles),
            "name": key.name,
            "created": _date(key.create_time_s),
            "revoked": _date(key.revoke_time_s) if key.revoke_time_s else None,
        }
        for key in keys
    ]
    text = "\n".join(
        f"{row['id']}  {row['tenant']:<20} {','.join(row['roles']):<11} {row['created']}"
        f"{'  revoked ' + row['revoked'] if row['revoked'] else ''}  {row['name']}"
        for row in rows
    )
    shell.show(rows, text or "no keys; `moltbot keys create --tenant NAME` makes one")
    return OK


def keys_revoke(shell: Shell) -> int:
    """End a key."""

    async def work(store: KeyValueStore) -> ApiKey:
        return await ApiKeys(store).revoke(shell.args.id)

    key: ApiKey = asyncio.run(with_store(shell, work))
    _record(shell, "keys revoke", key.id, key.tenant)
    shell.show({"id": key.id, "revoked": True}, f"revoked {key.id}")
    return OK


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def config_check(shell: Shell) -> int:
    """Check the configuration and all that it names."""
    refuse_broken(named_files(shell))
    table = read_table(shell.settings.router, 1)
    told = f"{shell.config_file or 'defaults'}: valid; {len(table.models)} models, {len(table.rules)} rules in files"
    shell.show({"valid": True, "models": sorted(table.models), "rules": sorted(table.rules)}, told)
    return OK


def config_show(shell: Shell) -> int:
    """Show the configuration in force."""
    tree = _without_passwords(shell.settings.model_dump(mode="json"))
    shell.show(tree, yaml.safe_dump(tree, sort_keys=False).rstrip())
    return OK


def config_diff(shell: Shell) -> int:
    """Show what differs from the defaults."""
    mine = _flat(_without_passwords(shell.settings.model_dump(mode="json")))
    default = _flat(Settings().model_dump(mode="json"))
    differing = {
        key: {"default": default.get(key), "now": value} for key, value in mine.items() if default.get(key) != value
    }
    text = "\n".join(f"{key}: {item['default']} → {item['now']}" for key, item in differing.items())
    shell.show(differing, text or "nothing differs from the defaults")
    return OK


def _without_passwords(tree: dict[str, Any]) -> dict[str, Any]:
    """The same without the passwords of URLs (`redis://user:password@host`): what is shown is pasted elsewhere."""

    def shown(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shown(item) for key, item in cast("dict[str, Any]", value).items()}
        if isinstance(value, list):
            return [shown(item) for item in cast("list[Any]", value)]
        return _PASSWORD.sub("***", value) if isinstance(value, str) else value

    return shown(tree)


def _flat(tree: dict[str, Any], at: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{at}{key}.")  # type: ignore[arg-type]
        else:
            found[f"{at}{key}"] = value
    return found
