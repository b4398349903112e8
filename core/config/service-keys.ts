/** The sections `influxdb` and `grafana` of the configuration: services beside MySQL, each with a chain of its own. */
import { z } from 'zod';
import { absolutePath, durationMs, endpointUrl, key, listen, mapping, paths, placeUrl, text } from './keys.ts';

/** Kinds of services, as they stand in the names of chains, topics and folders. */
export const serviceKinds = ['influxdb', 'grafana'] as const;

function serviceName() {
  return text('a name of small letters, digits, dash and underscore', /^[a-z][a-z0-9_-]{0,31}$/);
}

function databases() {
  const error = 'a list of database names such as [telegraf]';
  return z
    .array(z.string({ error }).min(1, { error }).max(255, { error }), { error })
    .min(1, { error })
    .max(256, { error });
}

function listOf<T extends z.ZodType>(item: T, what: string) {
  const error = `a list of ${what}`;
  return z.array(item, { error }).max(16, { error });
}

const influxdb = mapping({
  name: key(
    serviceName(),
    'Name of this InfluxDB. Its folder in every archive is called so: choose it once.',
    'syslog',
  ),
  url: key(endpointUrl(), 'Where InfluxDB (1.6 to 1.8) answers.', 'http://127.0.0.1:8086'),
  databases: key(
    databases().optional(),
    'Databases to protect; all but _internal when left out, those made later as well.',
    '[telegraf]',
  ),
  user: key(
    text('a user name of 1 to 255 characters', /^[^\0:]{1,255}$/).optional(),
    'Administrator of InfluxDB, where it asks for one (auth-enabled).',
    'qazyna',
  ).meta({ seldom: true }),
  password_file: key(
    absolutePath().optional(),
    'File with its password (mode 0600), or a systemd credential of the same file name.',
    '/etc/qazyna/influxdb.password',
  ).meta({ seldom: true }),
  listen: key(
    listen().default('127.0.0.1:8087'),
    'Where writes are taken: InfluxDB forwards each one there (a subscription), and Telegraf may write there as to a second output.',
    '127.0.0.1:8087',
  ),
  advertise: key(
    endpointUrl().optional(),
    'The same address as InfluxDB reaches it, where that is another one.',
    'http://10.0.0.7:8087',
  ).meta({ seldom: true }),
  check_every: key(
    durationMs(500).prefault('5s'),
    'How often InfluxDB is asked whether it forwarded everything.',
    '5s',
  ).meta({ seldom: true }),
  snapshots_every: key(
    durationMs(60_000).prefault('1h'),
    'Shards that changed are copied this often; those that no longer change are copied once.',
    '1h',
  ),
});

const grafana = mapping({
  name: key(serviceName(), 'Name of this Grafana. Its folder in every archive is called so: choose it once.', 'main'),
  url: key(
    placeUrl(),
    'Where Grafana answers: its root_url, also with a path (https://host/grafana).',
    'http://127.0.0.1:3000',
  ),
  token_file: key(
    absolutePath(),
    'File with the token of a service account whose role is Admin (mode 0600), or a systemd credential of the same file name.',
    '/etc/qazyna/grafana.token',
  ),
  more_token_files: key(
    paths(),
    'Tokens of further organizations of the same Grafana: a file for each, because a token sees only its own.',
    '[/etc/qazyna/grafana-2.token]',
  ).meta({ seldom: true }),
  check_every: key(
    durationMs(200).prefault('10s'),
    'How often Grafana is looked at. Where two thirds of it are too short to ask for all there is, the rest is asked in turn.',
    '10s',
  ).meta({ seldom: true }),
  snapshots_every: key(
    durationMs(60_000).prefault('1d'),
    'All that is known of it is written down whole this often: a restore reads the newest, and the changes since.',
    '1d',
  ).meta({ seldom: true }),
});

export const influxdbList = listOf(influxdb, 'InfluxDB servers, each with its name and url');
export const grafanaList = listOf(grafana, 'Grafana servers, each with its name and url');

const metricsInfluxdb = mapping({
  url: key(endpointUrl(), 'Where that InfluxDB (1.x or 2.x) answers.', 'http://127.0.0.1:8086'),
  database: key(
    text('a database name, with /policy behind it where it is not the default one', /^[^\0]{1,255}$/).optional(),
    '1.x: the database, which must be there.',
    'monitoring',
  ),
  user: key(
    text('a user name of 1 to 255 characters', /^[^\0:]{1,255}$/).optional(),
    '1.x: account, where it asks for one.',
    'qazyna',
  ).meta({
    seldom: true,
  }),
  password_file: key(
    absolutePath().optional(),
    '1.x: file with its password (mode 0600).',
    '/etc/qazyna/metrics.password',
  ).meta({
    seldom: true,
  }),
  org: key(text('an organization', /^[^\0]{1,255}$/).optional(), '2.x: the organization.', 'agama').meta({
    seldom: true,
  }),
  bucket: key(text('a bucket', /^[^\0]{1,255}$/).optional(), '2.x: the bucket.', 'monitoring').meta({ seldom: true }),
  token_file: key(absolutePath().optional(), '2.x: file with the token (mode 0600).', '/etc/qazyna/metrics.token').meta(
    {
      seldom: true,
    },
  ),
  every: key(durationMs(1000).prefault('10s'), 'How often.', '10s'),
});

export const metrics = mapping({
  influxdb: key(
    metricsInfluxdb.optional(),
    'Writes what /metrics tells to an InfluxDB. What it does not take waits for a while, with an alarm; the backup never waits for it.',
  ),
});
