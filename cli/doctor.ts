/** `qazyna doctor [--fix]`: what would make a backup fail, before it does. */
import type { Command } from 'commander';
import type { Finding } from '../agent/doctor/examine.ts';
import { KeyRing } from '../core/archive/keys.ts';
import { openArchive, openStore } from '../core/archive/open.ts';
import { type ArchiveConfig, type Config, mysqlOf } from '../core/config/config.ts';
import { mysqlEndpointOf, readSecret } from '../core/config/secrets.ts';
import { configurationError, exitCodes, QazynaError } from '../core/errors/error.ts';
import { openLog } from './log.ts';
import { addVerb, type Context, type Frame, wholeNumber } from './verb.ts';

/** Brokers that cannot be reached within this are down for whoever asks now. */
const brokersWithinMs = 10_000;

interface DoctorOptions {
  fix?: boolean;
  adminUser: string;
  adminPasswordFile?: string;
  adminSocket?: string;
  adminHost?: string;
  adminPort?: number;
}

const marks = { ok: 'ok  ', warn: 'WARN', fail: 'FAIL' } as const;
/** What only the clone engine minds. */
const cloneOnly = new Set(['QZ2134', 'QZ2135']);
/** What only dumps mind. */
const dumpOnly = new Set(['QZ2144']);

export function addDoctor(program: Command, frame: Frame): void {
  addVerb<DoctorOptions>(program, frame, {
    usage: 'doctor',
    summary: 'find what would make a backup fail before it does; --fix mends what is safe',
    about:
      'Looks at the source, the account, the topic, the archives and InfluxDB and Grafana beside it. --fix turns gtid_mode on while the server runs, makes the account of the configuration with exactly the grants it needs, writes its password file where there is none, sets binlog_row_metadata to FULL and, for snapshots by clone, installs its plugin; it connects as an administrator for that. Exit code 5 when anything is left to mend.',
    examples: [
      ['doctor', 'Is everything ready?'],
      ['doctor --fix --admin-socket /run/mysqld/mysqld.sock', 'Prepare a stock MySQL as its root user'],
    ],
    options: (command) => {
      command.option('--fix', 'mend what can be mended while the server runs');
      command.option('--admin-user <name>', 'administrator that --fix connects as', 'root');
      command.option('--admin-password-file <file>', 'file with its password (else none)');
      command.option('--admin-socket <path>', 'connect to this socket file instead of host and port');
      command.option('--admin-host <host>', 'connect there (else source.mysql.host)');
      command.option('--admin-port <port>', 'connect there (else source.mysql.port)', wholeNumber(1, 65_535));
    },
    run: doctor,
  });
}

async function doctor(context: Context, options: DoctorOptions): Promise<number> {
  const config = await context.config();
  const done = options.fix ? await mend(context, config, options) : [];
  const findings = [
    ...(config.source.mysql === null ? [] : await examineSource(context, config)),
    ...(await examineServices(context, config)),
    ...(config.source.mysql === null ? [] : await examineLog(context, config)),
    ...(await examineArchives(context, config, options.fix === true)),
  ];
  const wrong = findings.filter(({ severity }) => severity !== 'ok');
  const head =
    wrong.length === 0
      ? `All is ready to back up ${config.source.name}.`
      : `ATTENTION: ${wrong.length === 1 ? 'one finding' : `${wrong.length} findings`} on ${config.source.name}${wrong.some(({ fixable }) => fixable) ? '; `qazyna doctor --fix` mends some' : ''}.`;
  context.out.result({ source: config.source.name, ready: wrong.length === 0, done, findings }, [
    head,
    ...done.map((sentence) => `done  ${sentence}`),
    ...findings.flatMap(({ code, severity, sentence, hint, fixable }) => [
      `${marks[severity]}  ${severity === 'ok' ? '' : `${code}: `}${sentence}`,
      ...(severity === 'ok' || hint === ''
        ? []
        : [`      hint: ${hint}${fixable && !hint.includes('--fix') ? ' (--fix does it)' : ''}`]),
    ]),
  ]);
  return wrong.length === 0 ? exitCodes.done : exitCodes.attention;
}

async function examineSource(context: Context, config: Config): Promise<Finding[]> {
  const { examine } = await import('../agent/doctor/examine.ts');
  const warnings: Finding[] = [];
  const warn = (sentence: string) =>
    warnings.push({
      code: 'QZ2024',
      severity: 'warn',
      sentence,
      hint: 'Only root and the account of the agent need to read it.',
      fixable: false,
    });
  try {
    const endpoint = await mysqlEndpointOf(mysqlOf(config), { warn, environment: context.environment });
    const found = await examine(endpoint, context.signal, { semiSync: isAcknowledged(config) });
    const isForOthers = config.snapshots.engine === 'clone' ? dumpOnly : cloneOnly;
    const minded = found.filter(({ code }) => !isForOthers.has(code));
    return [...warnings, ...minded];
  } catch (error) {
    return [...warnings, findingOf(error, error instanceof QazynaError && error.code === 'QZ2017')];
  }
}

async function examineServices(context: Context, { influxdb, grafana }: Config): Promise<Finding[]> {
  const { examineInfluxdb } = await import('../agent/doctor/influxdb.ts');
  const { examineGrafana } = await import('../agent/doctor/grafana.ts');
  const each = await Promise.all([
    ...influxdb.map((one) => examineInfluxdb(one, context)),
    ...grafana.map((one) => examineGrafana(one, context)),
  ]);
  return each.flat();
}

/** Nothing of a local log can be seen from outside while an agent holds it; of a topic, all that its settings say. */
async function examineLog(context: Context, config: Config): Promise<Finding[]> {
  if (config.log.kind === 'local') return [];
  const { topic } = config.log;
  const { logger, signal, environment } = context;
  const ok = (sentence: string): Finding[] => [{ code: 'QZ2036', severity: 'ok', sentence, hint: '', fixable: false }];
  try {
    const waits = { creates: false, patienceMs: brokersWithinMs, onTrouble: () => undefined };
    const options = { config, role: 'doctor', archived: () => [], ...waits, logger, signal, environment };
    const log = await openLog(options);
    await log.close();
    return ok(`The Kafka topic ${topic} can be reached, and no setting of it could lose data.`);
  } catch (error) {
    if (error instanceof QazynaError && error.code === 'QZ2310')
      return ok(`The Kafka brokers can be reached; the agent makes the topic ${topic} when it first starts.`);
    return [findingOf(error, false)];
  }
}

/** Writes and removes a small object, and opens what is there; with `create` a missing folder is made. */
async function examineArchives(context: Context, config: Config, create: boolean): Promise<Finding[]> {
  return await Promise.all(
    config.archives.map(async (archive: ArchiveConfig): Promise<Finding> => {
      const { name, url, failureDomain } = archive;
      let key: string | null = null;
      try {
        key = await examineKeys(context, archive);
        const store = await openStore(url, { create });
        await store.probe();
        await openIfMade(context, archive);
      } catch (error) {
        return findingOf(error, error instanceof QazynaError && error.code === 'QZ2401');
      }
      const where = failureDomain === 'other_host' ? '' : ' (on this host: it is lost with it)';
      const how = key === null ? '' : `, encrypted under the key ${key}`;
      return {
        code: 'QZ2025',
        severity: 'ok',
        sentence: `The archive ${name} can be written${how}${where}.`,
        hint: '',
        fixable: false,
      };
    }),
  );
}

/** The id of the key that is written with; null without encryption. */
async function examineKeys({ logger, environment }: Context, { encryption }: ArchiveConfig): Promise<string | null> {
  if (encryption === null) return null;
  const warn = (sentence: string) => logger.warn(sentence);
  return (await KeyRing.read(encryption, { warn, environment })).newest.id;
}

/** Whether the keys fit. */
async function openIfMade({ environment }: Context, { url, encryption }: ArchiveConfig): Promise<void> {
  try {
    await openArchive(url, { create: false, keys: encryption, environment });
  } catch (error) {
    if (!(error instanceof QazynaError) || error.code !== 'QZ2408') throw error;
  }
}

function findingOf(error: unknown, fixable: boolean): Finding {
  if (!(error instanceof QazynaError)) throw error;
  return { code: error.code, severity: 'fail', sentence: error.message, hint: error.hint, fixable };
}

async function mend(context: Context, config: Config, options: DoctorOptions): Promise<string[]> {
  const mysql = mysqlOf(config);
  if (mysql.passwordFile === null)
    throw configurationError(
      'QZ2026',
      'doctor --fix cannot make an account without a password file.',
      `Name one as source.mysql.password_file in ${config.file}; it is written when it does not exist.`,
    );
  const { fix } = await import('../agent/doctor/fix.ts');
  const password =
    options.adminPasswordFile === undefined ? '' : await readSecret(options.adminPasswordFile, { environment: {} });
  const socket = options.adminSocket === undefined ? {} : { socketPath: options.adminSocket };
  return await fix({
    clone: config.snapshots.engine === 'clone',
    semiSync: isAcknowledged(config),
    admin: {
      host: options.adminHost ?? mysql.host,
      port: options.adminPort ?? mysql.port,
      ...socket,
      user: options.adminUser,
      password,
      tls: options.adminSocket === undefined ? mysql.tls : { mode: 'preferred' },
    },
    account: { user: mysql.user, passwordFile: mysql.passwordFile },
    say: (sentence) => context.logger.warn(sentence),
    signal: context.signal,
  });
}

function isAcknowledged({ source }: Config): boolean {
  return source.acknowledgeAfter !== 'none';
}
