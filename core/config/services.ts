/** Services beside MySQL as programs see them: checked, in the project's own names. */
import { parseListen } from './keys.ts';
import type { ConfigFile } from './schema.ts';
import { serviceKinds } from './service-keys.ts';

/** Of a topic's name (kafka.common.internals.Topic). */
const topicMax = 249;

export type ServiceKind = (typeof serviceKinds)[number];

/** A service beside MySQL, with a chain of its own. */
export interface ServiceId {
  kind: ServiceKind;
  name: string;
}

export interface InfluxdbConfig extends ServiceId {
  kind: 'influxdb';
  url: string;
  /** null: all but _internal. */
  databases: string[] | null;
  user: string | null;
  passwordFile: string | null;
  listen: { host: string; port: number };
  /** Where InfluxDB reaches `listen`: a URL without a path. */
  advertise: string;
  checkEveryMs: number;
  snapshotsEveryMs: number;
}

export interface GrafanaConfig extends ServiceId {
  kind: 'grafana';
  /** Perhaps with a path, without a slash at its end. */
  url: string;
  /** One for each organization. */
  tokenFiles: string[];
  checkEveryMs: number;
  snapshotsEveryMs: number;
}

export type ServiceConfig = InfluxdbConfig | GrafanaConfig;

export interface Services {
  influxdb: readonly InfluxdbConfig[];
  grafana: readonly GrafanaConfig[];
}

interface Problem {
  path: string[];
  sentence: string;
  hint: string;
}

export function toInfluxdb(raw: ConfigFile['influxdb'][number]): InfluxdbConfig {
  const { name, url, user, advertise } = raw;
  return {
    kind: 'influxdb',
    name,
    url,
    databases: raw.databases ?? null,
    user: user ?? null,
    passwordFile: raw.password_file ?? null,
    listen: parseListen(raw.listen) ?? { host: '127.0.0.1', port: 8087 },
    advertise: advertise ?? `http://${raw.listen}`,
    checkEveryMs: raw.check_every,
    snapshotsEveryMs: raw.snapshots_every,
  };
}

export function toGrafana(raw: ConfigFile['grafana'][number]): GrafanaConfig {
  return {
    kind: 'grafana',
    name: raw.name,
    url: raw.url,
    tokenFiles: [raw.token_file, ...raw.more_token_files],
    checkEveryMs: raw.check_every,
    snapshotsEveryMs: raw.snapshots_every,
  };
}

/** Where metrics are sent; one of `database` (1.x) and `bucket` (2.x) is there. */
export interface MetricsConfig {
  url: string;
  database: string | null;
  user: string | null;
  passwordFile: string | null;
  org: string | null;
  bucket: string | null;
  tokenFile: string | null;
  everyMs: number;
}

export function toMetrics({ influxdb }: ConfigFile['metrics']): MetricsConfig | null {
  if (influxdb === undefined) return null;
  return {
    url: influxdb.url,
    database: influxdb.database ?? null,
    user: influxdb.user ?? null,
    passwordFile: influxdb.password_file ?? null,
    org: influxdb.org ?? null,
    bucket: influxdb.bucket ?? null,
    tokenFile: influxdb.token_file ?? null,
    everyMs: influxdb.every,
  };
}

/** All of them, in the order of the file. */
export function servicesOf({ influxdb, grafana }: Services): ServiceConfig[] {
  return [...influxdb, ...grafana];
}

/** What no single key can show to be wrong. `topic` is null with a local log. */
export function serviceProblems(
  services: Services,
  others: { topic: string | null; hasMysql: boolean; metrics: MetricsConfig | null },
): Problem[] {
  const all = servicesOf(services);
  const found: Problem[] = [];
  if (!others.hasMysql && all.length === 0)
    found.push({
      path: ['source'],
      sentence: '`source.mysql` is missing, and no other service is named',
      hint: 'Say which MySQL server is protected.',
    });
  for (const kind of serviceKinds) {
    const names = services[kind].map(({ name }) => name);
    const twice = names.find((name, index) => names.indexOf(name) < index);
    if (twice === undefined) continue;
    const sentence = `\`${kind}\` has two entries called ${twice}`;
    found.push({ path: [kind], sentence, hint: 'Give each a name of its own.' });
  }
  const longest = Math.max(0, ...all.map(({ kind, name }) => kind.length + name.length + 2));
  if (others.topic !== null && longest > 0 && others.topic.length + longest > topicMax)
    found.push({
      path: ['log', 'kafka', 'topic'],
      sentence: '`log.kafka.topic` is too long for the topics of its services, which are called <topic>.<kind>.<name>',
      hint: `Give a shorter name: such a topic may have ${topicMax} characters.`,
    });
  return [...found, ...metricsProblems(others.metrics)];
}

function metricsProblems(metrics: MetricsConfig | null): Problem[] {
  if (metrics === null) return [];
  const { database, bucket, org, tokenFile } = metrics;
  const path = ['metrics', 'influxdb'];
  if ((database === null) === (bucket === null)) {
    const sentence = '`metrics.influxdb` needs either database (1.x) or bucket (2.x)';
    return [{ path, sentence, hint: 'Say where the metrics go.' }];
  }
  if (bucket === null || (org !== null && tokenFile !== null)) return [];
  const sentence = '`metrics.influxdb` with a bucket needs org and token_file as well';
  return [{ path, sentence, hint: 'InfluxDB 2.x takes no writes without them.' }];
}
