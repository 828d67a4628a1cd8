"""All SQL of the PostgreSQL store: its schema, and its statements by what they are for.

Every statement that changes something returns rows, so that whoever runs it waits for its outcome.
Times are bigint ns since 1970, but for leases, which live by the server's own clock.
"""

from __future__ import annotations

from dataclasses import fields

from loadtest.dispatcher.records import Attempt, Endpoint
from sim.policy import BY_DISABLING, DROPPED

SCHEMA = "hooklab"
CHANNEL = "hooklab"
MIGRATION_LOCK = 7_227_001
"""Advisory lock under which one process at a time brings the schema up to date."""
MASK_LOCK = 7_227_002
"""Advisory lock of whoever changes types or patterns: masks are computed from both."""
ORDER_LOCK = 7_227_003
"""First key of the advisory locks of streams; the second is the slot."""
REMOVAL_LOCK = 7_227_004
"""Shared by whoever lets deliveries wait, and held alone by whoever removes an endpoint: none waits for it then."""
SLOTS = 1024
"""Streams share so many locks: one transaction may touch any number of streams, the lock table is finite."""
LEASE_S = 5

WAITS = "d.state = 0 and not d.held"
"""What may be handed out; the indexes that hand out are limited to it."""

# --------------------------------------------------------------------- schema

MIGRATIONS = (
    """
    create table types (name text primary key, bit integer not null unique);

    -- Removed endpoints stay: their deliveries are listed under their id.
    create table endpoints (
        number bigint generated always as identity primary key,
        id text not null,
        url text not null,
        types text[] not null,
        policy text not null,
        policy_name text not null,
        secret text not null,
        old_secret text not null,
        old_secret_until bigint not null,
        signature text not null,
        hook_fields boolean not null,
        max_in_flight integer not null,
        rate_limit double precision not null,
        ordering text not null,
        mode text not null,
        poll_every double precision not null,
        description text not null,
        status text not null,
        reason text not null,
        created bigint not null,
        changed bigint not null,
        health text not null,
        mask bytea not null,
        removed boolean not null default false
    );
    create unique index endpoints_id on endpoints (id) where not removed;
    create index endpoints_any_id on endpoints (id);

    create table events (
        number bigint generated always as identity primary key,
        id text not null unique,
        digest bytea not null,
        type text not null,
        key text not null,
        seq bigint not null,
        occurred bigint not null,
        created bigint not null,
        data bytea not null,
        object_type text not null,
        object_id text not null,
        lonely boolean not null             -- nobody wanted it: it is pruned by its own age
    );
    create index events_lonely on events (created) where lonely;

    -- A delivery's row is rewritten at each claim and each result: room in its page keeps claims cheap.
    create table deliveries (
        number bigint generated always as identity primary key,
        event bigint not null,
        endpoint bigint not null,
        stream text,
        slot integer,                       -- the lock of its stream; null: no order
        state smallint not null,
        cause smallint not null,
        attempts integer not null default 0,
        due bigint not null,
        gap bigint not null,
        born bigint not null,
        created bigint not null,
        since bigint not null,              -- when it began to wait for its next attempt
        settled bigint not null default -1,
        delivered bigint not null default -1,
        held boolean not null default false,
        released boolean not null default false,
        hinted boolean not null default false,
        claimed_by bigint                   -- the process that has it in memory
    ) with (fillfactor = 80);
    create unique index deliveries_event on deliveries (event, endpoint);
    create index deliveries_endpoint on deliveries (endpoint, number);
    create index deliveries_due on deliveries (endpoint, hinted, due, number) where state = 0 and not held;
    create index deliveries_tier on deliveries (attempts, since, number) where state = 0 and not held;
    create index deliveries_stream on deliveries (endpoint, stream, number)
        where state = 0 and stream is not null;
    create index deliveries_lost on deliveries (number) where state > 2;
    create index deliveries_settled on deliveries (settled) where state <> 0;

    -- What happened. A position is the transaction's number and a count within it (see trace below).
    create table log (
        position bigint primary key,
        delivery bigint not null,
        attempt_number integer,             -- null: settled without an attempt
        tier integer,
        due bigint,
        started bigint,
        finished bigint,
        outcome smallint,
        status smallint,
        wait_cause smallint,
        answer bytea,
        error text
    );
    create index log_delivery on log (delivery, position);

    create table objects (
        type text not null, id text not null, data bytea not null, at bigint not null, primary key (type, id)
    );

    create table processes (
        number bigint generated always as identity primary key,
        name text not null,
        until timestamptz not null
    );
    create table shards (shard integer primary key, owner bigint, until timestamptz);
    insert into shards (shard) select generate_series(0, 31);
    """,
    """
    -- Rises with each change of endpoints, for processes that missed the notice of it.
    create table generation (number bigint not null);
    insert into generation values (0);

    -- How many deliveries there are by state and, of those that wait, by the number of their next attempt (else 0).
    -- A process adds to the rows of its slot, so that none waits for another; only their sums mean anything.
    create table totals (
        slot integer not null, state smallint not null, tier integer not null, count bigint not null,
        primary key (slot, state, tier)
    ) with (fillfactor = 50);
    insert into totals
        select 0, state, case when state = 0 then attempts + 1 else 0 end, count(*) from deliveries group by 2, 3;

    -- Lists by state, or by endpoint and state, go from new to old, however many are in other states.
    drop index deliveries_lost;
    create index deliveries_state on deliveries (state, number);
    drop index deliveries_endpoint;
    create index deliveries_endpoint on deliveries (endpoint, state, number);
    """,
    """
    -- Lists by type go from new to old too, alone or with a state, of one endpoint or of all, however few there are.
    alter table deliveries add column type text collate "C" not null default '';
    update deliveries d set type = e.type from events e where e.number = d.event;
    create index deliveries_type on deliveries (type, state, number);
    create index deliveries_endpoint_type on deliveries (endpoint, type, state, number);
    """,
)

HAS_SCHEMA = "select exists (select from pg_namespace where nspname = %(schema)s)"
ENCODING = "select current_setting('server_encoding')"
CREATE_SCHEMA = f"create schema {SCHEMA}"
CREATE_VERSION = """
    create table if not exists version (number integer not null);
    insert into version select 0 where not exists (select from version)
"""
VERSION = "select number from version"
SET_VERSION = "update version set number = %(number)s"
LOCK = "select pg_advisory_xact_lock(%(key)s)"
LOCK_SHARED = "select pg_advisory_xact_lock_shared(%(key)s)"

# --------------------------------------------------------------------- order

LOCK_ORDER = f"""
    select slot, pg_advisory_xact_lock({ORDER_LOCK}, slot) from (
        select distinct slot from (
            select unnest(%(slots)s::integer[]) as slot
            union all select (number %% {SLOTS})::integer from endpoints
                where number = any(%(targets)s::bigint[]) and mode = 'poll'
            union all select slot from deliveries where number = any(%(deliveries)s::bigint[])
            union all select slot from deliveries where endpoint = any(%(endpoints)s::bigint[]) and state = 0
        ) as wanted where slot is not null order by slot
    ) as sorted
"""
"""Taken in one order by all, so that nobody waits in a circle. What is added for an endpoint that polls takes a lock
too: its numbers then become visible in order, and a poll that asks for what is above a number misses none."""

BLOCKED = """
    select distinct p.endpoint, p.stream
    from unnest(%(endpoints)s::bigint[], %(streams)s::text[]) as p (endpoint, stream)
    where exists (
        select from deliveries d where d.endpoint = p.endpoint and d.stream = p.stream and d.state = 0
    )
"""

RELEASE_SUCCESSORS = """
    update deliveries d set held = false, released = true
    from unnest(%(endpoints)s::bigint[], %(streams)s::text[]) as p (endpoint, stream)
    where d.number = (
        select w.number from deliveries w
        where w.endpoint = p.endpoint and w.stream = p.stream and w.state = 0 and w.held
        order by w.number limit 1
    ) and not exists (
        select from deliveries w
        where w.endpoint = p.endpoint and w.stream = p.stream and w.state = 0 and not w.held
    )
    returning d.endpoint, d.due
"""

# --------------------------------------------------------------------- types and endpoints

TYPES = "select name from types order by bit"
ADD_TYPES = """
    insert into types (name, bit)
    select name, bit from unnest(%(names)s::text[], %(bits)s::integer[]) as t (name, bit) returning bit
"""
PATTERNS = "select number, types, mask from endpoints where not removed order by number for no key update"
SET_MASKS = """
    update endpoints e set mask = m.mask
    from unnest(%(numbers)s::bigint[], %(masks)s::bytea[]) as m (number, mask)
    where e.number = m.number and e.mask <> m.mask returning e.number
"""
ENDPOINT_FIELDS = tuple(field.name for field in fields(Endpoint))
_WRITTEN = tuple(name for name in ENDPOINT_FIELDS if name != "number")
ENDPOINTS = f"select {', '.join(ENDPOINT_FIELDS)} from endpoints where not removed order by number"
INSERT_ENDPOINT = f"""
    insert into endpoints ({", ".join(_WRITTEN)}, mask)
    values ({", ".join(f"%({name})s" for name in _WRITTEN)}, %(mask)s) returning number
"""
REPLACE_ENDPOINT = f"""
    update endpoints set {", ".join(f"{name} = %({name})s" for name in _WRITTEN)}, mask = %(mask)s
    where number = %(number)s and not removed returning number
"""
SAVE_HEALTH = """
    update endpoints e set health = h.health
    from unnest(%(numbers)s::bigint[], %(healths)s::text[]) as h (number, health)
    where e.number = h.number returning e.number
"""
REMOVE_ENDPOINT = (
    "update endpoints set removed = true where number = %(number)s and not removed returning number"
)
GENERATION = "select number from generation"
NEXT_GENERATION = "update generation set number = number + 1 returning number"
SUBSCRIBERS = """
    select e.number from types t left join endpoints e
        on not e.removed and length(e.mask) * 8 > t.bit and get_bit(e.mask, t.bit) = 1
    where t.name = %(type)s order by e.number
"""

# --------------------------------------------------------------------- intake

ADD_EVENTS = """
    insert into events (id, digest, type, key, seq, occurred, created, data, object_type, object_id, lonely)
    select id, digest, type, key, seq, occurred, created, data, object_type, object_id, lonely
    from unnest(
        %(id)s::text[], %(digest)s::bytea[], %(type)s::text[], %(key)s::text[], %(seq)s::bigint[],
        %(occurred)s::bigint[], %(created)s::bigint[], %(data)s::bytea[], %(object_type)s::text[],
        %(object_id)s::text[], %(lonely)s::boolean[]
    ) with ordinality
        as e (id, digest, type, key, seq, occurred, created, data, object_type, object_id, lonely, place)
    order by place
    on conflict (id) do nothing returning id, number
"""
KNOWN_EVENTS = "select id, number, digest from events where id = any(%(ids)s::text[])"
ADD_DELIVERIES = f"""
    insert into deliveries (event, type, endpoint, stream, slot, state, cause, due, gap, born, created, since,
        settled, delivered, held, claimed_by)
    select event, type, endpoint, stream, slot, case when gone.number is null then d.state else {DROPPED} end,
        case when gone.number is null then cause else {BY_DISABLING} end, due, gap, d.created, d.created, d.created,
        case when d.state = 0 and gone.number is null then -1 else d.created end,
        case when d.state = 2 then d.created else -1 end, held and gone.number is null,
        case when gone.number is null then claimed_by end
    from unnest(
        %(event)s::bigint[], %(type)s::text[], %(endpoint)s::bigint[], %(stream)s::text[], %(slot)s::integer[],
        %(state)s::smallint[], %(cause)s::smallint[], %(due)s::bigint[], %(gap)s::bigint[],
        %(created)s::bigint[], %(held)s::boolean[], %(claimed_by)s::bigint[]
    ) with ordinality
        as d (event, type, endpoint, stream, slot, state, cause, due, gap, created, held, claimed_by, place)
    left join endpoints gone on gone.number = d.endpoint and gone.removed and d.state = 0
    order by place
    returning event, endpoint, number, state
"""
"""What would wait for an endpoint that has been removed meanwhile is dropped; see ``REMOVAL_LOCK``."""
FANNED_OUT = """
    select n.number from endpoints n where n.number = any(%(endpoints)s::bigint[]) and exists (
        select from deliveries d join endpoints o on o.number = d.endpoint
        where d.event = %(event)s and o.id = n.id
    )
"""
"""Which endpoints have their delivery of an event already, be it under an earlier endpoint of their id."""

# --------------------------------------------------------------------- what is due

_FREE = """(d.claimed_by is null or d.claimed_by = %(me)s or d.claimed_by <> all(
    array(select p.number from processes p where p.until > clock_timestamp())))"""
"""Not in the memory of another process that lives."""
_NEW = f"{WAITS} and d.number <> all(%(loaded)s::bigint[]) and {_FREE}"
_WAITING = """d.number, d.endpoint, d.attempts, d.due, d.gap, d.born, d.created, e.id, e.type, e.key, e.seq,
    e.occurred, e.data, e.object_type, e.object_id, d.released::integer"""
_CLAIM = f"""taken as (
        update deliveries d set claimed_by = %(me)s from chosen where d.number = chosen.number returning d.*
    )
    select {_WAITING}"""

DUE = f"""
    with plain as (
        select d.number, d.due from deliveries d
        where d.endpoint = %(endpoint)s and not d.hinted and d.due <= %(until)s and {_NEW}
        order by d.due, d.number limit %(room)s for update skip locked
    ), overdue as (
        select d.number, d.due from deliveries d
        where d.endpoint = %(endpoint)s and d.hinted and d.due <= %(until)s - %(grace)s and {_NEW}
        order by d.due, d.number limit %(room)s for update skip locked
    ), chosen as (
        select number from (select * from plain union all select * from overdue) as both_kinds
        order by due, number limit %(room)s
    ), {_CLAIM} from taken d join events e on e.number = d.event order by d.due, d.number
"""
_FIRST = """least(
        (select d.due from deliveries d where d.endpoint = {endpoint} and not d.hinted and {which}
            order by d.due, d.number limit 1),
        (select d.due + %(grace)s from deliveries d where d.endpoint = {endpoint} and d.hinted and {which}
            order by d.due, d.number limit 1)
    )"""
NEXT_OF_ENDPOINT = f"select {_FIRST.format(endpoint='%(endpoint)s', which=_NEW)}"
NEXT_DUE = f"""
    select * from (
        select n.number, {_FIRST.format(endpoint="n.number", which=f"{WAITS} and {_FREE}")} as due
        from endpoints n where not n.removed and n.number %% 32 = any(%(shards)s::integer[])
    ) as owned where due is not null
"""
TIER = f"""
    with chosen as (
        select d.number from deliveries d
        where d.attempts = %(attempts)s and d.endpoint = any(%(endpoints)s::bigint[]) and {_NEW}
        order by d.since, d.number limit %(room)s for update skip locked
    ), {_CLAIM} from taken d join events e on e.number = d.event order by d.since, d.number
"""
RELEASE = """
    with given_back as (
        select number from deliveries d
        where d.endpoint = %(endpoint)s and d.state = 0 and not d.held and d.claimed_by = %(me)s
            and d.number <> all(%(in_flight)s::bigint[])
        for update skip locked
    )
    update deliveries d set claimed_by = null from given_back g where d.number = g.number returning d.due
"""
HINT = """
    update deliveries d set hinted = false
    where d.number = (
        select w.number from deliveries w
        where w.number = %(delivery)s and w.attempts = %(attempts)s and w.state = 0 and w.hinted
        for update skip locked
    )
    returning d.endpoint, d.due
"""

# --------------------------------------------------------------------- results

POSITION = "(pg_current_xact_id()::text::bigint << 22) + %(offset)s"
MOST_LOGGED = 1 << 22
"""Rows of the log that one transaction may add."""

RECORD = """
    with old as (
        select number, state, attempts from deliveries where number = any(%(delivery)s::bigint[])
        order by number for update
    )
    update deliveries d set
        attempts = greatest(d.attempts, r.attempts), claimed_by = null, released = false,
        hinted = d.state = 0 and r.state = 0 and r.hinted,
        state = case when d.state = 0 then r.state else d.state end,
        cause = case when d.state = 0 then r.cause else d.cause end,
        due = case when d.state = 0 then r.due else d.due end,
        gap = case when d.state = 0 then r.gap else d.gap end,
        born = case when d.state = 0 then r.born else d.born end,
        since = case when d.state = 0 then r.at else d.since end,
        settled = case when d.state = 0 and r.state <> 0 then r.at else d.settled end,
        delivered = case when d.state = 0 and r.state = 2 and d.delivered < 0 then r.at else d.delivered end
    from unnest(
        %(delivery)s::bigint[], %(attempts)s::integer[], %(state)s::smallint[], %(cause)s::smallint[],
        %(due)s::bigint[], %(gap)s::bigint[], %(born)s::bigint[], %(at)s::bigint[], %(hinted)s::boolean[]
    ) as r (delivery, attempts, state, cause, due, gap, born, at, hinted), old
    where d.number = r.delivery and old.number = r.delivery
    returning d.number, d.endpoint, d.stream, d.state, d.due, d.attempts, old.state, old.attempts
"""
"""Rows are locked before they are read: what they were is counted, and another process may settle them too."""
LOGGED = """
    select l.delivery, l.started from log l
    where l.delivery = any(%(deliveries)s::bigint[]) and l.started = any(%(started)s::bigint[])
"""
ATTEMPT_FIELDS = Attempt._fields
ADD_LOG = f"""
    insert into log (position, delivery, {", ".join(ATTEMPT_FIELDS)})
    select {POSITION} + place, delivery, {", ".join(ATTEMPT_FIELDS)}
    from unnest(
        %(delivery)s::bigint[], %(attempt_number)s::integer[], %(tier)s::integer[], %(due)s::bigint[],
        %(started)s::bigint[], %(finished)s::bigint[], %(outcome)s::smallint[], %(status)s::smallint[],
        %(wait_cause)s::smallint[], %(answer)s::bytea[], %(error)s::text[]
    ) with ordinality as l (delivery, {", ".join(ATTEMPT_FIELDS)}, place)
    returning 1
"""
_SETTLE = """state = %(state)s, cause = %(cause)s, settled = %(at)s, hinted = false, claimed_by = null,
    delivered = case when %(state)s = 2 and d.delivered < 0 then %(at)s else d.delivered end, held = false"""
SETTLE_WAITING = f"""
    update deliveries d set {_SETTLE}
    where d.number in (
        select w.number from deliveries w
        where w.endpoint = %(endpoint)s and w.state = 0 and w.number < %(below)s
            and w.number <> all(%(in_flight)s::bigint[]) and (w.slot is null or w.slot = any(%(slots)s::integer[]))
        order by w.number desc limit %(limit)s for update
    )
    returning d.number, d.attempts
"""
ORPHANS = """
    select n.number from endpoints n where n.removed and exists (
        select from deliveries d where d.endpoint = n.number and d.state = 0
    )
"""
CANCEL = f"""
    update deliveries d set {_SETTLE} where d.number = %(delivery)s and d.state = 0
    returning d.endpoint, d.stream, d.attempts
"""
RESEND = """
    with old as (
        select number, state from deliveries where number = any(%(deliveries)s::bigint[])
        order by number for update
    )
    update deliveries d set state = 0, cause = 0, due = %(due)s, gap = 0, born = %(due)s, since = %(due)s,
        settled = -1, released = false, hinted = false, claimed_by = null,
        held = d.stream is not null and exists (
            select from deliveries w where w.endpoint = d.endpoint and w.stream = d.stream
                and (w.state = 0 or (w.number = any(%(deliveries)s::bigint[]) and w.number < d.number))
        )
    from endpoints n, old
    where d.number = old.number and old.state <> 0 and n.number = d.endpoint and not n.removed
    returning d.number, d.endpoint, d.due, d.held, d.attempts, old.state
"""

# --------------------------------------------------------------------- what is shown

_DELIVERY = """d.number, e.id || ':' || n.id, e.id, n.id, e.type, e.key, e.seq, d.created, d.state, d.cause,
    d.attempts, d.due, d.delivered, d.settled, d.held"""
_JOINED = "join events e on e.number = d.event join endpoints n on n.number = d.endpoint"

_EVENT = """e.number, e.id, e.type, e.key, e.seq, e.occurred, e.created, e.data, e.object_type, e.object_id,
    array(select e.id || ':' || n.id from deliveries d join endpoints n on n.number = d.endpoint
        where d.event = e.number order by d.number)"""
EVENT = f"select {_EVENT} from events e where e.id = %(id)s"
FAN_OUT = "update events set lonely = false where id = %(id)s returning number, type"
"""Locks the event too, so that nobody prunes it while it gets more deliveries."""
EVENTS_BETWEEN = f"""
    select {_EVENT} from events e
    where e.number > %(after)s and e.created >= %(since)s and e.created < %(until)s
    order by e.number limit %(limit)s
"""
DELIVERY = f"""
    select {_DELIVERY} from unnest(%(events)s::text[], %(endpoints)s::text[]) as i (event, endpoint)
    join events e on e.id = i.event
    join deliveries d on d.event = e.number
    join endpoints n on n.number = d.endpoint and n.id = i.endpoint
    order by d.number desc limit 1
"""
LOG_OF_DELIVERY = f"""
    select {", ".join(ATTEMPT_FIELDS)} from log
    where delivery = %(delivery)s and attempt_number is not null order by position
"""
_STATES = "unnest(%(states)s::smallint[]) as of_state (state)"
_NEWEST_OF_STATE = """d.state >= of_state.state and (d.state, d.number) < (of_state.state, %(before)s::bigint)
    order by d.state desc, d.number desc limit %(limit)s"""
"""An order that only the indexes with the state have: the server would walk along all deliveries otherwise."""


def _of_states(which: str = "") -> str:
    """Lists by one walk along an index for each state, and the newest of all; ``which``: what else must hold."""
    return f"""
        select {_DELIVERY} from (
            select d.* from {_STATES} cross join lateral (
                select * from deliveries d where {which} {_NEWEST_OF_STATE}
            ) as d order by d.number desc limit %(limit)s
        ) as d {_JOINED} order by d.number desc
    """


def _of_endpoint(which: str = "") -> str:
    """The same of one endpoint; a removed one and its successors may share the id."""
    return f"""
        select {_DELIVERY} from (
            select d.* from endpoints one cross join {_STATES} cross join lateral (
                select * from deliveries d where d.endpoint = one.number and {which} {_NEWEST_OF_STATE}
            ) as d where one.id = %(endpoint)s order by d.number desc limit %(limit)s
        ) as d {_JOINED} order by d.number desc
    """


_OF_TYPE = "d.type = %(type)s and"

DELIVERIES = f"""
    select {_DELIVERY} from deliveries d {_JOINED} where d.number < %(before)s order by d.number desc limit %(limit)s
"""
DELIVERIES_OF_STATES = _of_states()
DELIVERIES_OF_TYPE = _of_states(_OF_TYPE)
DELIVERIES_OF_ENDPOINT = _of_endpoint()
DELIVERIES_OF_ENDPOINT_AND_TYPE = _of_endpoint(_OF_TYPE)
POLL = f"""
    select {_WAITING} from {_STATES} cross join lateral (
        select * from deliveries d where d.endpoint = %(endpoint)s and d.state <= of_state.state
            and (d.state, d.number) > (of_state.state, %(after)s::bigint) order by d.state, d.number limit %(limit)s
    ) as d join events e on e.number = d.event order by d.number limit %(limit)s
"""
TRACE = f"""
    select l.position, {", ".join(f"l.{name}" for name in ATTEMPT_FIELDS)}, {_DELIVERY}
    from log l join deliveries d on d.number = l.delivery {_JOINED}
    where l.position > %(after)s
        and l.position < (pg_snapshot_xmin(pg_current_snapshot())::text::bigint << 22)
    order by l.position limit %(limit)s
"""
"""Below the oldest transaction that still runs nothing can appear any more, so a reader that has come so far has
missed nothing. A long writing transaction anywhere on the server delays the trace; it never makes it skip."""
LOGGED_AFTER = "select exists (select from log where position > %(after)s)"
TOTALS = "select state, tier, sum(count)::bigint from totals group by state, tier having sum(count) > 0 order by 1, 2"
COUNT = """
    insert into totals as t (slot, state, tier, count)
    select %(slot)s, state, tier, change
    from unnest(%(states)s::smallint[], %(tiers)s::integer[], %(changes)s::bigint[]) as c (state, tier, change)
    on conflict (slot, state, tier) do update set count = t.count + excluded.count returning 1
"""
TOTAL_SLOTS = 32
"""Processes that share one wait for each other's commits; more slots are more rows to sum."""

# --------------------------------------------------------------------- objects and retention

PUT_OBJECT = """
    insert into objects (type, id, data, at) values (%(type)s, %(id)s, %(data)s, %(at)s)
    on conflict (type, id) do update set data = excluded.data, at = excluded.at returning at
"""
OBJECT = "select data from objects where type = %(type)s and id = %(id)s"
DELETE_OBJECT = "delete from objects where type = %(type)s and id = %(id)s returning at"
PRUNE = """
    delete from deliveries d where d.number in (
        select w.number from deliveries w where w.state <> 0 and w.settled < %(before)s
        order by w.settled limit %(limit)s for update skip locked
    ) returning d.number, d.event, d.state
"""
PRUNE_LONELY = """
    delete from events where number in (
        select number from events where lonely and created < %(before)s
        order by created limit %(limit)s for update skip locked
    ) returning 1
"""
PRUNE_LOG = "delete from log where delivery = any(%(deliveries)s::bigint[]) returning 1"
LOCK_LONELY = """
    select e.number from events e where e.number = any(%(events)s::bigint[])
        and not exists (select from deliveries d where d.event = e.number)
    order by e.number for update
"""
PRUNE_EVENTS = """
    delete from events e where e.number = any(%(events)s::bigint[])
        and not exists (select from deliveries d where d.event = e.number) returning 1
"""
"""A statement of its own after the lock: it sees deliveries that were being added meanwhile."""

# --------------------------------------------------------------------- sharing

JOIN = f"""
    insert into processes (name, until) values (%(name)s, clock_timestamp() + interval '{LEASE_S} s')
    returning number
"""
FORGET_DEAD = "delete from processes where until < clock_timestamp() - interval '1 minute' returning number"
HEARTBEAT = f"""
    update processes set until = clock_timestamp() + interval '{LEASE_S} s'
    where number = %(me)s and until > clock_timestamp() returning number
"""
LIVING = "select number from processes where until > clock_timestamp() order by number"
RENEW = f"""
    update shards set until = clock_timestamp() + interval '{LEASE_S} s' where owner = %(me)s returning shard
"""
TAKE = f"""
    update shards set owner = %(me)s, until = clock_timestamp() + interval '{LEASE_S} s'
    where shard in (
        select shard from shards where owner is null or until < clock_timestamp()
        order by shard limit %(room)s for update skip locked
    ) returning shard
"""
GIVE_UP = """
    update shards set owner = null, until = null
    where owner = %(me)s and shard = any(%(shards)s::integer[]) returning shard
"""
LEAVE = "delete from processes where number = %(me)s returning number"
NOTIFY = f"select pg_notify('{CHANNEL}', %(payload)s)"
LISTEN = f"listen {CHANNEL}"
CHECK = "update processes set name = name where number = %(me)s returning current_setting('transaction_read_only')"
