/** From the configuration file to what programs see of it, or to all that is wrong with it. */
import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { configurationError, type QazynaError } from '../errors/error.ts';
import { type Complaint, complaints } from './complaints.ts';
import { crossComplaints, logComplaints } from './cross-checks.ts';
import { folderOfFileUrl, parseListen } from './keys.ts';
import { type ConfigFile, configSchema, s3Keys } from './schema.ts';
import { toGrafana, toInfluxdb, toMetrics } from './services.ts';
import type {
  ArchiveConfig,
  Config,
  DrillConfig,
  KafkaLogConfig,
  LocalLogConfig,
  MysqlConfig,
  StandbyConfig,
} from './types.ts';
import { parseYamlFile } from './yaml-file.ts';

export const defaultConfigPath = '/etc/qazyna/config.yaml';

export type * from './types.ts';

/** For verbs that need the MySQL server: QZ2039 where the configuration names none. */
export function mysqlOf({ source, file }: Pick<Config, 'source' | 'file'>): MysqlConfig {
  if (source.mysql !== null) return source.mysql;
  throw configurationError(
    'QZ2039',
    `${file} names no MySQL server, which this verb needs.`,
    'Add source.mysql, or give the configuration of the agent beside MySQL with --config.',
  );
}

/**
 * Without a Kafka log, the archive whose order says who the source is: the one that commits wait for, else the one that a
 * pair's standby follows. Null: the log says it, or there is no pair.
 */
export function decidingArchive({ source, log, standby }: Config): string | null {
  if (log.kind === 'kafka' || source.acknowledgeAfter === 'log') return null;
  return source.acknowledgeAfter === 'none' ? (standby?.archive ?? null) : source.acknowledgeAfter;
}

/** `--config FILE`, else `$QAZYNA_CONFIG`, else /etc/qazyna/config.yaml; never the working folder. */
export function configPath(flag: string | undefined, environment: NodeJS.ProcessEnv = process.env): string {
  return resolve(flag ?? (environment.QAZYNA_CONFIG || defaultConfigPath));
}

/** Read and check a file. Configuration errors QZ2010–QZ2015, QZ2019; all complaints stand in `details.problems`. */
export async function loadConfig(file: string): Promise<Config> {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    throw unreadable(file, error);
  }
  return parseConfig(file, text);
}

/** As `loadConfig`, from text; `file` is only for messages. */
export function parseConfig(file: string, text: string): Config {
  const yaml = parseYamlFile(file, text);
  const found = complaints(file, yaml);
  if (found.length > 0) throw complain(found);
  const choosing = logComplaints(file, yaml);
  if (choosing.length > 0) throw complain(choosing);
  const config = toConfig(file, configSchema.parse(yaml.data));
  const crossing = crossComplaints(config, yaml, decidingArchive(config));
  if (crossing.length > 0) throw complain(crossing);
  return config;
}

function complain(found: readonly Complaint[]): QazynaError {
  const first = found[0];
  if (!first) throw new RangeError('complain() needs a complaint');
  const more =
    found.length === 1 ? '' : ` (${found.length - 1} more in this file: \`qazyna config check\` lists them.)`;
  return configurationError(first.code, first.sentence, first.hint + more, {
    details: { problems: found.map(({ code, sentence, hint }) => ({ code, message: sentence, hint })) },
  });
}

function unreadable(file: string, cause: unknown): QazynaError {
  const reason = (cause as NodeJS.ErrnoException).code ?? String(cause);
  if (reason === 'ENOENT')
    return configurationError(
      'QZ2010',
      `There is no configuration at ${file}.`,
      'Write one with `qazyna config example > FILE` and give it with --config FILE or $QAZYNA_CONFIG; verbs that only read an archive do without: --from URL.',
      { cause },
    );
  return configurationError(
    'QZ2011',
    `The configuration ${file} cannot be read (${reason}).`,
    'Check that it is a file and that this account may read it.',
    { cause },
  );
}

function toConfig(file: string, raw: ConfigFile): Config {
  const { source, log, archives, snapshots, http } = raw;
  return {
    file,
    source: {
      name: source.name,
      start: source.start,
      acknowledgeAfter: source.acknowledge_after,
      mysql: source.mysql === undefined ? null : toMysql(source.mysql),
    },
    log: toLog(log),
    archives: Object.entries(archives).map(([name, archive]) => toArchive(name, archive)),
    snapshots: {
      engine: snapshots.engine,
      from: snapshots.from,
      everyMs: snapshots.every,
      scratchDir: snapshots.scratch_dir === undefined ? null : resolve(snapshots.scratch_dir),
    },
    verify: {
      everyMs: raw.verify.every,
      fullEveryMs: raw.verify.full_every,
      maxRateBytes: raw.verify.max_rate ?? null,
    },
    drill: toDrill(raw),
    standby: raw.standby === undefined ? null : toStandby(raw.standby, firstArchive(raw)),
    influxdb: raw.influxdb.map(toInfluxdb),
    grafana: raw.grafana.map(toGrafana),
    metrics: toMetrics(raw.metrics),
    http: parseListen(http.listen) ?? { host: '127.0.0.1', port: 9309 },
  };
}

function toMysql({ host, port, user, password_file, tls }: NonNullable<ConfigFile['source']['mysql']>): MysqlConfig {
  const { mode, ca_file: caFile, cert_file: certFile, key_file: keyFile } = tls;
  return { host, port, user, passwordFile: password_file ?? null, tls: { mode, caFile, certFile, keyFile } };
}

function toDrill({ drill, archives }: ConfigFile): DrillConfig {
  return {
    everyMs: drill.every,
    dir: drill.dir === undefined ? null : resolve(drill.dir),
    archive: drill.archive ?? Object.keys(archives)[0] ?? '',
    mysqldPath: drill.mysqld ?? null,
    assertions: drill.assertions,
    rowsEveryMs: drill.rows_every,
    rowsMaxTableBytes: drill.rows_max_table,
  };
}

/** The one that decides, else the first one of the file. */
function firstArchive({ source, archives }: ConfigFile): string {
  const names = Object.keys(archives);
  return names.find((name) => name === source.acknowledge_after) ?? names[0] ?? '';
}

function toStandby(raw: NonNullable<ConfigFile['standby']>, firstArchive: string): StandbyConfig {
  const { failover } = raw;
  const bind = parseListen(raw.bind) ?? { host: '127.0.0.1', port: 3306 };
  return {
    dir: resolve(raw.dir),
    bind,
    advertise: (raw.advertise === undefined ? null : parseListen(raw.advertise)) ?? bind,
    runBy: raw.run_by,
    mysqldPath: raw.mysqld ?? null,
    osUser: raw.user ?? null,
    serverOptions: raw.server_options,
    archive: raw.archive ?? firstArchive,
    listen: parseListen(raw.listen) ?? { host: '127.0.0.1', port: 3310 },
    replicaUser: raw.replica_user,
    replicaPasswordFile: raw.replica_password_file ?? null,
    failover: {
      automatic: failover.automatic,
      afterMs: failover.after,
      drainDeadlineMs: failover.drain_deadline,
      notAgainWithinMs: failover.not_again_within,
      fence: failover.fence ?? null,
      hooks: failover.hooks,
    },
  };
}

function toLog({ local, kafka }: ConfigFile['log']): LocalLogConfig | KafkaLogConfig {
  if (kafka === undefined) {
    const dir = resolve(local?.dir ?? '');
    return { kind: 'local', dir, maxSizeBytes: local?.max_size ?? 0, stateDir: dir };
  }
  const { brokers, topic, tls, sasl } = kafka;
  return {
    kind: 'kafka',
    brokers,
    topic,
    stateDir: resolve(kafka.state_dir),
    replicationFactor: kafka.replication_factor ?? null,
    retentionMs: kafka.retention,
    tls: tls === undefined ? null : { caFile: tls.ca_file, certFile: tls.cert_file, keyFile: tls.key_file },
    sasl: sasl === undefined ? null : { mechanism: sasl.mechanism, user: sasl.user, passwordFile: sasl.password_file },
  };
}

function toArchive(name: string, archive: ConfigFile['archives'][string]): ArchiveConfig {
  const dir = folderOfFileUrl(archive.url);
  const failureDomain = archive.failure_domain ?? (dir === null ? 'other_host' : 'same_host');
  const keys = archive.encryption;
  const encryption = keys === undefined ? null : { keyFile: keys.key_file, oldKeyFiles: keys.old_key_files };
  const place = archive.url;
  const { keep, retention: retentionMs } = archive;
  const shared = { name, place, dir, failureDomain, encryption, retentionMs, keep };
  if (dir !== null) return { ...shared, url: place, pruneUrl: place };
  const query = new URLSearchParams();
  for (const key of s3Keys) {
    const value = archive[key];
    if (value !== undefined) query.set(key, String(value));
  }
  if (archive.object_lock !== 'none')
    query.set('object_lock', `${archive.object_lock}-${Math.ceil(retentionMs / 1000)}s`);
  const url = query.size === 0 ? place : `${place}?${query}`;
  const prune = archive.prune_credentials_file;
  if (prune !== undefined) query.set('credentials_file', prune);
  const pruneUrl = prune === undefined ? null : `${place}?${query}`;
  return { ...shared, url, pruneUrl };
}
