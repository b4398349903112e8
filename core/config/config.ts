/** The configuration as programs see it: checked, in the project's own names, every number with its unit. */
import { readFile } from 'node:fs/promises';
import { relative, resolve } from 'node:path';
import { configurationError, type QazynaError } from '../errors/error.ts';
import { type Complaint, complaints } from './complaints.ts';
import { folderOfFileUrl, parseListen } from './keys.ts';
import { type ConfigFile, configSchema, s3Keys } from './schema.ts';
import {
  type GrafanaConfig,
  type InfluxdbConfig,
  type MetricsConfig,
  serviceProblems,
  toGrafana,
  toInfluxdb,
  toMetrics,
} from './services.ts';
import { parseYamlFile, type YamlFile } from './yaml-file.ts';

export const defaultConfigPath = '/etc/qazyna/config.yaml';

export type TlsMode = 'verify_identity' | 'verify_ca' | 'required' | 'preferred' | 'disabled';

export interface MysqlConfig {
  host: string;
  port: number;
  user: string;
  /** null: no password. Read it with `readSecret` (secrets.ts) at the moment of use; it is never kept in here. */
  passwordFile: string | null;
  tls: { mode: TlsMode; caFile?: string | undefined; certFile?: string | undefined; keyFile?: string | undefined };
}

export interface ArchiveConfig {
  name: string;
  /** All that leads to it: an s3:// URL carries endpoint, region, credentials_file … in its query (core/archive/open.ts). */
  url: string;
  /** The same as the file has it, for messages. */
  place: string;
  /** Folder of a file:// URL. */
  dir: string | null;
  failureDomain: 'same_host' | 'other_host';
  /** The same with rights to delete, for compaction; null: nothing there may be deleted. */
  pruneUrl: string | null;
  /** Key files (core/archive/keys.ts); null where nothing is encrypted. */
  encryption: { keyFile: string; oldKeyFiles: string[] } | null;
}

export interface LocalLogConfig {
  kind: 'local';
  dir: string;
  maxSizeBytes: number;
  /** Folder of small files by which log and archives are recognized again. */
  stateDir: string;
}

export interface KafkaLogConfig {
  kind: 'kafka';
  brokers: string[];
  topic: string;
  stateDir: string;
  /** null: 3, or as many as there are brokers. */
  replicationFactor: number | null;
  retentionMs: number;
  tls: { caFile?: string | undefined; certFile?: string | undefined; keyFile?: string | undefined } | null;
  sasl: { mechanism: 'scram-sha-512' | 'scram-sha-256' | 'plain'; user: string; passwordFile: string } | null;
}

export interface StandbyConfig {
  dir: string;
  bind: { host: string; port: number };
  /** Where applications reach it. */
  advertise: { host: string; port: number };
  mysqldPath: string | null;
  osUser: string | null;
  serverOptions: Record<string, string | number | boolean>;
  /** Name of the archive it is filled from. */
  archive: string;
  listen: { host: string; port: number };
  replicaUser: string;
  replicaPasswordFile: string | null;
  failover: {
    automatic: boolean;
    afterMs: number;
    drainDeadlineMs: number;
    notAgainWithinMs: number;
    fence: string[] | null;
    hooks: string[][];
  };
}

export interface Config {
  /** The file it was read from, for messages. */
  file: string;
  /** `mysql` null: only the services are protected. */
  source: { name: string; start: 'oldest' | 'current'; mysql: MysqlConfig | null; acknowledgeAfter: string };
  log: LocalLogConfig | KafkaLogConfig;
  /** In the order of the file; at least one. */
  archives: ArchiveConfig[];
  snapshots: { engine: 'clone' | 'logical'; everyMs: number; scratchDir: string | null };
  /** Null where there is none. */
  standby: StandbyConfig | null;
  /** In the order of the file. */
  influxdb: InfluxdbConfig[];
  grafana: GrafanaConfig[];
  /** Null where none are sent. */
  metrics: MetricsConfig | null;
  http: { host: string; port: number };
}

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

/** Read and check a file. Configuration errors QZ2010–QZ2016, QZ2019; all complaints stand in `details.problems`. */
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
  const crossing = crossComplaints(config, yaml);
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
      everyMs: snapshots.every,
      scratchDir: snapshots.scratch_dir === undefined ? null : resolve(snapshots.scratch_dir),
    },
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
  if (dir !== null) return { name, url: place, place, dir, failureDomain, pruneUrl: place, encryption };
  const query = new URLSearchParams();
  for (const key of s3Keys) {
    const value = archive[key];
    if (value !== undefined) query.set(key, String(value));
  }
  const url = query.size === 0 ? place : `${place}?${query}`;
  const prune = archive.prune_credentials_file;
  if (prune !== undefined) query.set('credentials_file', prune);
  const pruneUrl = prune === undefined ? null : `${place}?${query}`;
  return { name, url, place, dir, failureDomain, pruneUrl, encryption };
}

/** Exactly one log. */
function logComplaints(file: string, yaml: YamlFile): Complaint[] {
  const { local, kafka } = configSchema.parse(yaml.data).log;
  if (local !== undefined && kafka !== undefined) {
    const hint = 'Keep one of them: the log is either files on this host or a topic.';
    return [wrong(yaml, file, ['log', 'kafka'], '`log` has both local and kafka', hint)];
  }
  if (local !== undefined || kafka !== undefined) return [];
  return [
    {
      code: 'QZ2014',
      sentence: `\`log.local\` or \`log.kafka\` is missing (${yaml.place(['log'], 'value')} of ${file}).`,
      hint: 'Say where the log is: files on this host (local: { dir: /var/lib/qazyna/log }) or a topic (kafka).',
    },
  ];
}

/** What no single key can show to be wrong. */
function crossComplaints(config: Config, yaml: YamlFile): Complaint[] {
  return [
    ...archiveComplaints(config, yaml),
    ...folderComplaints(config, yaml),
    ...acknowledgeComplaints(config, yaml),
    ...standbyComplaints(config, yaml),
    ...serviceComplaints(config, yaml),
  ];
}

function serviceComplaints(config: Config, yaml: YamlFile): Complaint[] {
  const { log, source, file } = config;
  const others = {
    topic: log.kind === 'kafka' ? log.topic : null,
    hasMysql: source.mysql !== null,
    metrics: config.metrics,
  };
  const problems = serviceProblems(config, others);
  return problems.map(({ path, sentence, hint }) => wrong(yaml, file, path, sentence, hint));
}

function standbyComplaints(config: Config, yaml: YamlFile): Complaint[] {
  const { standby, archives, file } = config;
  if (standby === null) return [];
  const found: Complaint[] = [];
  if (!archives.some(({ name }) => name === standby.archive)) {
    const sentence = `\`standby.archive\` names ${standby.archive}, which is no archive of this file`;
    const hint = `Name one of ${archives.map(({ name }) => name).join(', ')}, or leave it out.`;
    found.push(wrong(yaml, file, ['standby', 'archive'], sentence, hint));
  }
  const decides = archives.find(({ name }) => name === decidingArchive(config));
  if (decides?.failureDomain === 'same_host') {
    const sentence = `without a Kafka log the pair meets in the archive ${decides.name}, a folder on this very host`;
    const hint = `Name one that both hosts reach in \`standby.archive\`; if ${decides.url} is such a share, say failure_domain: other_host there.`;
    found.push(wrong(yaml, file, ['standby'], sentence, hint));
  }
  const { hooks } = standby.failover;
  if (hooks.length > 0 && /^(0\.0\.0\.0|::)$/.test(standby.advertise.host)) {
    const sentence = '`standby.failover.hooks` would be told to point at every address, which is none';
    const hint = 'Say in `standby.advertise` where applications reach this server, such as 192.0.2.2:3306.';
    found.push(wrong(yaml, file, ['standby', 'failover', 'hooks'], sentence, hint));
  }
  return found;
}

function wrong(yaml: YamlFile, file: string, path: readonly string[], sentence: string, hint: string): Complaint {
  return { code: 'QZ2019', sentence: `${sentence} (${yaml.place(path, 'value')} of ${file}).`, hint };
}

function archiveComplaints(config: Config, yaml: YamlFile): Complaint[] {
  const say = (path: string[], sentence: string, hint: string) => wrong(yaml, config.file, path, sentence, hint);
  const found: Complaint[] = [];
  if (config.archives.length === 0)
    found.push(
      say(['archives'], 'There is no archive in `archives`', 'Give at least one, better two in different places.'),
    );
  for (const { name } of config.archives) {
    if (name === 'none' || name === 'log')
      found.push(
        say(
          ['archives', name],
          `An archive cannot be called ${name}`,
          'That word has a meaning in acknowledge_after; take another name.',
        ),
      );
  }
  const { archives } = configSchema.parse(yaml.data);
  for (const { name, dir } of config.archives) {
    const only = [...s3Keys, 'prune_credentials_file' as const];
    const misplaced = dir === null ? undefined : only.find((key) => archives[name]?.[key] !== undefined);
    if (misplaced !== undefined)
      found.push(
        say(
          ['archives', name, misplaced],
          `\`archives.${name}.${misplaced}\` is for s3:// archives, and ${name} is a folder`,
          'Remove it, or give the archive an s3:// URL.',
        ),
      );
  }
  return found;
}

function folderComplaints(config: Config, yaml: YamlFile): Complaint[] {
  const folders: { path: string[]; dir: string }[] = [
    ...(config.log.kind === 'local' ? [{ path: ['log', 'local', 'dir'], dir: config.log.dir }] : []),
    ...config.archives.flatMap(({ name, dir }) =>
      dir === null ? [] : [{ path: ['archives', name, 'url'], dir: resolve(dir) }],
    ),
  ];
  if (config.standby !== null) folders.push({ path: ['standby', 'dir'], dir: config.standby.dir });
  const scratch = config.snapshots.scratchDir;
  if (scratch !== null) folders.push({ path: ['snapshots', 'scratch_dir'], dir: scratch });
  const found: Complaint[] = [];
  if (scratch === null && config.snapshots.engine === 'clone' && config.source.mysql !== null)
    found.push(
      wrong(
        yaml,
        config.file,
        ['snapshots'],
        '`snapshots.scratch_dir` is missing, and the clone engine needs it',
        'Name a folder that mysqld may write to, with room for a second copy of its data, or set engine: logical.',
      ),
    );
  for (const [index, one] of folders.entries()) {
    for (const other of folders.slice(index + 1)) {
      if (!within(one.dir, other.dir) && !within(other.dir, one.dir)) continue;
      const [a, b] = [one.path.join('.'), other.path.join('.')];
      found.push(
        wrong(
          yaml,
          config.file,
          other.path,
          `\`${b}\` and \`${a}\` are the same folder or one lies inside the other (${other.dir}, ${one.dir})`,
          'Give each a folder of its own, archives best on other disks.',
        ),
      );
    }
  }
  return found;
}

function within(outer: string, inner: string): boolean {
  const path = relative(outer, inner);
  return path !== '..' && !path.startsWith('../');
}

/** chain.md's rule: what acknowledges a commit must outlive this host, else "RPO 0" would be a lie. */
function acknowledgeComplaints(config: Config, yaml: YamlFile): Complaint[] {
  const after = config.source.acknowledgeAfter;
  if (after === 'none') return [];
  const path = ['source', 'acknowledge_after'];
  const say = (sentence: string, hint: string) => [wrong(yaml, config.file, path, sentence, hint)];
  if (after === 'log' && config.log.kind === 'kafka') return [];
  if (config.log.kind === 'kafka')
    return say(
      `\`source.acknowledge_after\` names ${after}, but with a Kafka log the topic is where commits wait`,
      'Set log: what is in the topic survives this host, and every archive follows from it. Or none.',
    );
  if (after === 'log')
    return say(
      '`source.acknowledge_after: log` would promise what a local log cannot keep: it dies with this host',
      'Set none, or the name of an archive with failure_domain: other_host.',
    );
  const archive = config.archives.find(({ name }) => name === after);
  if (!archive)
    return say(
      `\`source.acknowledge_after\` names ${after}, which is no archive of this file`,
      `Set none or one of ${config.archives.map(({ name }) => name).join(', ')}.`,
    );
  if (archive.failureDomain === 'same_host')
    return say(
      `\`source.acknowledge_after\` names ${after}, a folder on this very host, which would be lost with it`,
      `If ${archive.url} really outlives this host, say failure_domain: other_host there; else set none.`,
    );
  return [];
}
