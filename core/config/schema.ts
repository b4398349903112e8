/**
 * The configuration's one schema: it checks the file, makes the types, and writes `qazyna config example` and its help.
 * Keys are spelled as in the YAML; `toConfig` (config.ts) turns them into the project's own names with their units.
 *
 * Every key has a description (one or two sentences, printed as a comment), an example, and every value an "expected"
 * sentence that a wrong one is answered with.
 */
import { z } from 'zod';
import { drill, verify } from './check-keys.ts';
import {
  absolutePath,
  archiveUrl,
  brokers,
  durationMs,
  endpointUrl,
  flag,
  key,
  listen,
  mapping,
  oneOf,
  paths,
  port,
  sizeBytes,
  text,
  wholeNumber,
} from './keys.ts';
import { grafanaList, influxdbList, metrics } from './service-keys.ts';
import { standby } from './standby-keys.ts';

const tls = mapping({
  mode: key(
    oneOf(['verify_identity', 'verify_ca', 'required', 'preferred', 'disabled']).default('required'),
    'verify_identity checks the certificate and its host name, verify_ca the certificate only; required encrypts without checking; preferred also accepts a server that cannot; disabled is for a loopback connection.',
    'required',
  ),
  ca_file: key(
    absolutePath().optional(),
    'Certificate authority (PEM) the server certificate must come from. The system’s own list when left out.',
    '/etc/qazyna/mysql-ca.pem',
  ).meta({ seldom: true }),
  cert_file: key(
    absolutePath().optional(),
    'Certificate (PEM) this side shows, for accounts made with REQUIRE X509.',
    '/etc/qazyna/mysql-client-cert.pem',
  ).meta({ seldom: true }),
  key_file: key(
    absolutePath().optional(),
    'Private key (PEM) of that certificate.',
    '/etc/qazyna/mysql-client-key.pem',
  ).meta({ seldom: true }),
});

const mysql = mapping({
  host: key(
    text('a host name or address', /^[^\s/@]{1,255}$/).default('127.0.0.1'),
    'Where the source listens. The clone engine of snapshots needs the agent on the same host.',
    '127.0.0.1',
  ),
  port: key(port().default(3306), 'TCP port of the source.', 3306),
  user: key(
    text('an account name of 1 to 32 characters', /^[^\0]{1,32}$/).default('qazyna'),
    'Account for capture and snapshots; `qazyna doctor --fix` makes it with exactly the grants it needs.',
    'qazyna',
  ),
  password_file: key(
    absolutePath().optional(),
    'File with the password (mode 0600). Under systemd a credential of the same file name is read instead. Left out: no password.',
    '/etc/qazyna/mysql.password',
  ),
  tls: key(tls.prefault({}), 'Encryption of the connection.'),
});

const source = mapping({
  name: key(
    text(
      'a name of letters, digits, dot, dash and underscore, at most 64 characters, beginning with a letter or digit',
      /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/,
    ),
    'Name of the protected server. Its folder in every archive is called so: choose it once.',
    'agama',
  ),
  start: key(
    oneOf(['oldest', 'current']).default('oldest'),
    'Where the very first capture begins: the oldest binlog still there, or the current one.',
    'oldest',
  ),
  mysql: key(
    mysql.optional(),
    'The MySQL server to protect. Left out: this process protects only the services below (influxdb, grafana).',
  ),
  acknowledge_after: key(
    text('none, log or the name of an archive', /^[a-z][a-z0-9_-]{0,31}$/).default('none'),
    'When commits on the source may return: none holds nothing up, and the lag that `status` states can be lost with the host. log (with kafka), or the name of an archive that outlives this host (with local): once they are there, so that no commit that a client was told of can be lost (RPO 0).',
    'none',
  ),
});

const local = mapping({
  dir: key(
    absolutePath(),
    'Folder of the log, on a disk of this host. Only one agent may hold it.',
    '/var/lib/qazyna/log',
  ),
  max_size: key(
    sizeBytes(16 * 2 ** 20).prefault('20GiB'),
    'At this size capture pauses and raises an alarm, until the archives have caught up.',
    '20GiB',
  ),
});

const kafkaTls = mapping({
  ca_file: key(
    absolutePath().optional(),
    'Certificate authority (PEM) of the brokers. The system’s own list when left out.',
    '/etc/qazyna/kafka-ca.pem',
  ),
  cert_file: key(
    absolutePath().optional(),
    'Certificate (PEM) this side shows, for brokers that ask for one.',
    '/etc/qazyna/kafka-client-cert.pem',
  ).meta({ seldom: true }),
  key_file: key(
    absolutePath().optional(),
    'Private key (PEM) of that certificate.',
    '/etc/qazyna/kafka-client-key.pem',
  ).meta({ seldom: true }),
});

const kafkaSasl = mapping({
  mechanism: key(
    oneOf(['scram-sha-512', 'scram-sha-256', 'plain']).default('scram-sha-512'),
    'How the brokers ask for the password; plain sends it as it is and needs tls.',
    'scram-sha-512',
  ),
  user: key(text('a user name of 1 to 255 characters', /^[^\0]{1,255}$/), 'Account at the brokers.', 'qazyna'),
  password_file: key(
    absolutePath(),
    'File with its password (mode 0600), or a systemd credential of the same file name.',
    '/etc/qazyna/kafka.password',
  ),
});

const kafka = mapping({
  brokers: key(
    brokers(),
    'Brokers to begin with; the others are learned from them.',
    '["k1:9092", "k2:9092", "k3:9092"]',
  ),
  topic: key(
    text(
      'a topic name of letters, digits, dot, dash and underscore, at most 249 characters',
      /^[A-Za-z0-9._-]{1,249}$/,
    ),
    'Topic of this source alone, with one partition. The agent makes it with the right settings where it is missing, and refuses one that could lose data.',
    'qazyna.agama',
  ),
  state_dir: key(
    absolutePath().default('/var/lib/qazyna'),
    'Folder on this host for what must be recognized again: which topic and which archives these are. No history is kept in it.',
    '/var/lib/qazyna',
  ),
  replication_factor: key(
    wholeNumber(1, 9).optional(),
    'Copies of the topic, when it is made: 3, or as many as there are brokers, when left out.',
    3,
  ).meta({ seldom: true }),
  retention: key(
    durationMs(3_600_000).prefault('7d'),
    'How long the brokers keep what every archive should have had within seconds. An alarm comes at half of it.',
    '7d',
  ),
  tls: key(
    kafkaTls.optional(),
    'Encryption of the connection, with the brokers’ certificates and host names checked. Without this section nothing is encrypted.',
  ),
  sasl: key(kafkaSasl.optional(), 'How this side shows who it is. Without this section it does not.'),
});

const encryption = mapping({
  key_file: key(
    absolutePath(),
    'File of 32 random bytes that `qazyna key new FILE` makes (mode 0600), or a systemd credential of the same file name. Nobody reads the archive without it: keep a copy away from this host.',
    '/etc/qazyna/keys/2026-11',
  ),
  old_key_files: key(
    paths(),
    'Further keys to read with: those that key_file named before; while keys are being changed, also the next one.',
    '["/etc/qazyna/keys/2025-11"]',
  ).meta({ seldom: true }),
});

const countOf = (what: string, example: number) =>
  key(wholeNumber(0, 10_000).default(0), `Of so many ${what} the last snapshot.`, example).meta({ seldom: true });

const keep = mapping({
  hourly: countOf('hours', 24),
  daily: countOf('days', 7),
  weekly: countOf('weeks', 8),
  monthly: countOf('months', 12),
});

const archive = mapping({
  url: key(
    archiveUrl(),
    'Where it is: a folder (file:///srv/qazyna) or a bucket with an optional prefix (s3://bucket/prefix).',
    'file:///srv/qazyna',
  ),
  failure_domain: key(
    oneOf(['same_host', 'other_host']).optional(),
    'other_host says that it outlives this host: taken for granted of s3, to be said of a folder (a mounted share, for example).',
    'same_host',
  ),
  encryption: key(
    encryption.optional(),
    'Encrypts everything in it (AES-256-GCM). Decided when the archive is made: it cannot be switched on or off afterwards.',
  ),
  retention: key(
    durationMs(3_600_000).prefault('30d'),
    'Every instant of so long stays restorable; what no such instant needs is deleted. In s3 only with prune_credentials_file.',
    '30d',
  ),
  keep: key(
    keep.prefault({}),
    'Snapshots that stay for longer, each with the history around it, so that its instant can be restored: the last one of an hour, day, week or month (UTC).',
  ).meta({ seldom: true }),
  object_lock: key(
    oneOf(['none', 'governance', 'compliance']).default('none'),
    's3 only, in a bucket with Object Lock: what is put is locked for `retention`. governance can be lifted by accounts with that right, compliance by nobody.',
    'none',
  ).meta({ seldom: true }),
  endpoint: key(
    endpointUrl().optional(),
    's3 only: address of the service, when it is not AWS itself.',
    'https://s3.example.org',
  ).meta({ seldom: true }),
  region: key(
    text('a region such as eu-north-1', /^[a-z0-9-]{1,64}$/).optional(),
    's3 only: region of the bucket.',
    'eu-north-1',
  ),
  path_style: key(
    flag().optional(),
    's3 only: true for services that know buckets by path, not by host name (most but AWS).',
    'false',
  ).meta({ seldom: true }),
  checksums: key(
    oneOf(['when_supported', 'when_required']).optional(),
    's3 only: when_required for services that refuse the checksums AWS knows.',
    'when_supported',
  ).meta({ seldom: true }),
  credentials_file: key(
    absolutePath().optional(),
    's3 only: file like ~/.aws/credentials whose [default] section holds the keys (mode 0600). Left out: environment, profile or instance role, as with every AWS program.',
    '/etc/qazyna/s3.credentials',
  ),
  prune_credentials_file: key(
    absolutePath().optional(),
    's3 only: keys that may also delete (ops/s3/sweeper.json), for compaction and retention. Left out: small objects stay as they are, and nothing is ever deleted.',
    '/etc/qazyna/s3-prune.credentials',
  ),
  ca_file: key(
    absolutePath().optional(),
    's3 only: certificate authority (PEM) of the endpoint. The system’s own list when left out.',
    '/etc/qazyna/s3-ca.pem',
  ).meta({ seldom: true }),
});

/** Keys of an archive that mean something for s3:// only, in the order of its URL's query (core/archive). */
export const s3Keys = ['endpoint', 'region', 'path_style', 'checksums', 'credentials_file', 'ca_file'] as const;

const snapshots = mapping({
  engine: key(
    oneOf(['clone', 'logical']).default('clone'),
    'clone copies the data files (MySQL 8.0.17 or later, agent on the same host, InnoDB only); logical dumps SQL from anywhere.',
    'clone',
  ),
  from: key(
    oneOf(['source', 'standby']).default('source'),
    'Whose server is copied: that of the source; or that of the standby, which spares the source. Of each timeline the source’s agent takes the first all the same, and one whenever the newest is older than one and a half times `every`.',
    'source',
  ),
  every: key(durationMs(60_000).prefault('6h'), 'A full copy this often; unchanged parts are stored only once.', '6h'),
  scratch_dir: key(
    absolutePath().optional(),
    'Folder in which mysqld may make the copy that clone takes (as large as its data). Needed by the clone engine.',
    '/var/lib/mysql-clone',
  ),
});

const http = mapping({
  listen: key(
    listen().default('127.0.0.1:9309'),
    'Where /status, /health and /metrics answer. They show no data and no secrets, and ask for no password: keep it on loopback or a trusted network.',
    '127.0.0.1:9309',
  ),
});

export const archiveNamePattern = /^[a-z][a-z0-9_-]{0,31}$/;

export const configSchema = mapping({
  source: key(source, 'What is protected. One source per file.'),
  log: key(
    mapping({
      local: key(local.optional(), 'Files on this host.'),
      kafka: key(
        kafka.optional(),
        'A Kafka topic in place of files: then shippers, standbys and archives may run on other hosts.',
      ).meta({ seldom: true }),
    }),
    'The ordered, durable list of what was captured, between the source and the archives: either local or kafka.',
  ),
  archives: key(
    z.record(text('an archive name of small letters, digits, dash and underscore', archiveNamePattern), archive, {
      error: 'a mapping of archive names to archives',
    }),
    'Where history is kept, each with its own name. Every archive holds all that a restore needs.',
    {
      onsite: { url: 'file:///srv/qazyna' },
      offsite: {
        url: 's3://agama-backups/prod',
        endpoint: 'https://s3.example.org',
        region: 'eu-north-1',
        path_style: 'true',
        checksums: 'when_supported',
        credentials_file: '/etc/qazyna/s3.credentials',
        prune_credentials_file: '/etc/qazyna/s3-prune.credentials',
        retention: '30d',
        keep: {},
        object_lock: 'none',
        ca_file: '/etc/qazyna/s3-ca.pem',
        failure_domain: 'other_host',
        encryption: {},
      },
    },
  ),
  snapshots: key(snapshots.prefault({}), 'Full copies, from which a restore starts.'),
  verify: key(verify.prefault({}), 'Whether everything in the archives is as it was written.'),
  drill: key(drill.prefault({}), 'Whether a restore gives what the source was.').meta({ seldom: true }),
  standby: key(
    standby.optional(),
    'For `qazyna standby`, on each of the two hosts of a pair: its own MySQL server, kept warm, and when it takes over.',
  ).meta({ seldom: true }),
  influxdb: key(
    influxdbList.default([]),
    'InfluxDB servers (1.6 to 1.8) beside MySQL, each with a log and a history of its own in the same archives.',
  ).meta({ seldom: true }),
  grafana: key(
    grafanaList.default([]),
    'Grafana servers (9 to 12) beside MySQL, each with a log and a history of its own in the same archives.',
  ).meta({ seldom: true }),
  http: key(http.prefault({}), 'Status for people and monitoring.'),
  metrics: key(metrics.prefault({}), 'Metrics that are sent, beside those that are asked for.').meta({ seldom: true }),
});

export type ConfigFile = z.output<typeof configSchema>;
