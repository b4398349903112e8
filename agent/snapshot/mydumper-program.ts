/**
 * Which mydumper there is, and what it understands. Its versions differ in their options, so `--help` decides, not the number;
 * one that lacks what a snapshot needs is left alone.
 */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { cacheFolder, isExecutable, programsOnPath } from '../../core/mysql/program.ts';

const run = promisify(execFile);
const helpTimeoutMs = 20_000;
const helpBytesMax = 1024 * 1024;
/** Seconds. Our own lock bounds what it may wait for; a replica's threads show up as queries that run for ever. */
const noGuard = 2_000_000_000;

const needed = [
  'defaults-file',
  'outputdir',
  'threads',
  'rows',
  'regex',
  'omit-from-file',
  'no-schemas',
  'complete-insert',
  'long-query-guard',
] as const;

export interface Mydumper {
  path: string;
  /** As printed: `0.10.0`. */
  version: string;
  /** Long options that its help lists, without dashes. */
  options: ReadonlySet<string>;
}

/** The first on PATH, else in set-up's cache folder; null: none. `lacks`: what keeps it from being used. */
export async function findMydumper(
  env: NodeJS.ProcessEnv = process.env,
): Promise<{ program: Mydumper; lacks: string[] } | null> {
  const candidates = [...(await programsOnPath('mydumper', env)), join(cacheFolder(env), 'bin', 'mydumper')];
  for (const path of candidates) {
    if (!(await isExecutable(path))) continue;
    const version = /mydumper v?(\d+\.\d+\.\d+)/.exec(await output(path, '--version'))?.[1];
    if (version === undefined) continue;
    const options = await optionsOf(path);
    const lacks: string[] = needed.filter((name) => !options.has(name));
    if (!options.has('no-locks') && !options.has('sync-thread-lock-mode')) lacks.push('no-locks');
    return { program: { path, version, options }, lacks };
  }
  return null;
}

/** Long options that a program's help lists, without dashes. */
export async function optionsOf(path: string): Promise<ReadonlySet<string>> {
  const help = await output(path, '--help');
  return new Set([...help.matchAll(/--([a-z][a-z0-9-]+)/g)].map(([, name]) => name ?? ''));
}

async function output(path: string, option: string): Promise<string> {
  const done = await run(path, [option], { timeout: helpTimeoutMs, maxBuffer: helpBytesMax }).catch(() => null);
  return done === null ? '' : `${done.stdout}${done.stderr}`;
}

export interface DumpOrder {
  optionFile: string;
  outputDir: string;
  /** One `db.table` a line. */
  omitFile: string | null;
  threads: number;
  rowsPerFile: number | null;
  encrypted: boolean;
  /** Of users, to be passed over. */
  omitSchemas: readonly string[];
  /** Those with tables for it; all in ASCII. */
  schemas: ReadonlySet<string>;
}

/**
 * Data of users' schemas only. Without locks of its own where its threads open their consistent reads all the same (up to
 * 0.18, src/mydumper_working_thread.c); from 0.19 on NO_LOCK leaves those out, so it locks beside us and lets go at once.
 *
 * A single schema is named: where it looks for schemas itself, 0.10 to 0.14 take the list of tables for whole as soon as one
 * schema is done before the next is queued (`database_counter`), and then lose tables, or wait for a freed queue for ever.
 */
export function mydumperArguments({ options }: Mydumper, order: DumpOrder): string[] {
  const [schema, ...more] = order.schemas;
  const named = schema !== undefined && more.length === 0 && options.has('database') ? [`--database=${schema}`] : [];
  const locking = options.has('sync-thread-lock-mode')
    ? ['--sync-thread-lock-mode=FTWRL', ...(options.has('trx-tables') ? ['--trx-tables'] : [])]
    : ['--no-locks'];
  return [
    `--defaults-file=${order.optionFile}`,
    `--outputdir=${order.outputDir}`,
    `--threads=${order.threads}`,
    '--no-schemas',
    '--complete-insert',
    ...named,
    `--regex=^(?!(${['mysql', 'sys', ...order.omitSchemas].map(literally).join('|')})\\.)`,
    `--long-query-guard=${noGuard}`,
    ...(order.rowsPerFile === null ? [] : [`--rows=${order.rowsPerFile}`]),
    ...(order.omitFile === null ? [] : [`--omit-from-file=${order.omitFile}`]),
    ...(order.encrypted ? ['--ssl'] : []),
    ...locking,
  ];
}

/** In a regular expression of PCRE, byte by byte: GLib refuses arguments that its locale cannot decode. */
function literally(text: string): string {
  return [...Buffer.from(text)]
    .map((byte) => (byte < 0x80 ? String.fromCharCode(byte) : `\\x${byte.toString(16)}`))
    .map((part) => (part.length === 1 ? part.replace(/[^A-Za-z0-9_]/, '\\$&') : part))
    .join('');
}

/** Before 0.10.3 a default that is an expression, CURRENT_TIMESTAMP too, made it take the column for a generated one. */
export function losesExpressionDefaults({ version }: Mydumper): boolean {
  const [major = 0, minor = 0, patch = 0] = version.split('.').map(Number);
  return major === 0 && (minor < 10 || (minor === 10 && patch < 3));
}
