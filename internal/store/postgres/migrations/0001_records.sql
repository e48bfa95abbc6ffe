-- The records of internal/store. Keys are bytes, so that they are ordered as
-- bytes. version changes with every change of a record and is never the same
-- twice.
create table mcp_clerk_record (
	key     bytea       primary key,
	value   bytea       not null,
	version bigint      not null,
	expires timestamptz
);

create index mcp_clerk_record_expires on mcp_clerk_record (expires) where expires is not null;
