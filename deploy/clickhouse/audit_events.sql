-- What the audit service writes into ClickHouse (`audit.clickhouse` in the configuration). Run it once, as a user who may:
--   clickhouse-client --queries-file audit_events.sql
-- The columns are those of moltbot_audit.adapters.columns.Row, and of the Parquet files. When a version has more of them,
-- add them by ALTER TABLE … ADD COLUMN: until then records wait in the log.

CREATE DATABASE IF NOT EXISTS moltbot;

-- Records come at least once, in batches. The same batch sent again is dropped by its hash while it is among the last
-- 1,000; what comes twice otherwise is one row after a merge, and at once with FINAL: nothing in a row depends on when it
-- was sent. Partitions are by sequence, not by time: no producer's clock can make a batch that is refused.
CREATE TABLE IF NOT EXISTS moltbot.audit_events
(
    sequence UInt64 CODEC(Delta, ZSTD),
    leaf_hash String CODEC(ZSTD) COMMENT 'RFC 6962, in hexadecimal',
    event_id UUID,
    time_unix_ns UInt64 CODEC(Delta, ZSTD),
    type LowCardinality(String),
    outcome LowCardinality(String),
    tenant LowCardinality(String),
    subject String CODEC(ZSTD),
    action String CODEC(ZSTD),
    object String CODEC(ZSTD),
    reason LowCardinality(String),
    ingress LowCardinality(String),
    request_id String CODEC(ZSTD),
    trace_id String CODEC(ZSTD),
    span_id String CODEC(ZSTD),
    parent_event_id Nullable(UUID),
    service LowCardinality(String),
    instance LowCardinality(String),
    model LowCardinality(String),
    prompt_tokens UInt32 CODEC(ZSTD),
    completion_tokens UInt32 CODEC(ZSTD),
    duration_us UInt64 CODEC(ZSTD),
    input_commitment String CODEC(ZSTD) COMMENT 'in hexadecimal',
    output_commitment String CODEC(ZSTD) COMMENT 'in hexadecimal',
    reasoning_commitment String CODEC(ZSTD) COMMENT 'in hexadecimal',
    output_bytes UInt64 CODEC(ZSTD),
    reasoning_bytes UInt64 CODEC(ZSTD),
    mark_id UInt32 CODEC(ZSTD),
    attributes Map(LowCardinality(String), String) CODEC(ZSTD),
    peer String CODEC(ZSTD),
    http_status UInt32 CODEC(ZSTD),
    producer_id String CODEC(ZSTD),
    producer_epoch UInt64 CODEC(ZSTD),
    producer_counter UInt64 CODEC(Delta, ZSTD),
    time DateTime64(9, 'UTC') DEFAULT fromUnixTimestamp64Nano(toInt64(time_unix_ns), 'UTC') CODEC(Delta, ZSTD),
    INDEX by_time time TYPE minmax GRANULARITY 1,
    INDEX by_trace trace_id TYPE bloom_filter GRANULARITY 4,
    INDEX by_request request_id TYPE bloom_filter GRANULARITY 4,
    INDEX by_subject subject TYPE bloom_filter GRANULARITY 4
)
ENGINE = ReplacingMergeTree
PARTITION BY intDiv(sequence, 100000000)
ORDER BY (tenant, sequence)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE VIEW IF NOT EXISTS moltbot.audit_requests_per_day AS
SELECT
    toDate32(time) AS day,
    tenant,
    model,
    count() AS requests,
    countIf(outcome = 'success') AS succeeded,
    countIf(outcome = 'refused') AS refused,
    countIf(outcome = 'failed') AS failed,
    countIf(outcome = 'cancelled') AS cancelled,
    sum(prompt_tokens) AS prompt_tokens,
    sum(completion_tokens) AS completion_tokens,
    quantile(0.5)(duration_us) / 1000 AS median_ms,
    quantile(0.99)(duration_us) / 1000 AS p99_ms
FROM moltbot.audit_events FINAL
WHERE type = 'request'
GROUP BY day, tenant, model;

-- The service needs no more than this; whoever reads needs SELECT alone:
--   CREATE USER moltbot_audit IDENTIFIED WITH sha256_password BY '…';
--   GRANT INSERT, SELECT(sequence), ALTER DELETE ON moltbot.audit_events TO moltbot_audit;
