/** Which archive a reading verb reads, and whose history: `--from NAME|URL --source NAME`, with or without configuration. */
import { isAbsolute, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { Command } from 'commander';
import type { KeyFiles } from '../core/archive/keys.ts';
import { ownerOf } from '../core/archive/layout.ts';
import { openArchive } from '../core/archive/open.ts';
import type { ObjectStore } from '../core/archive/store.ts';
import type { Config } from '../core/config/config.ts';
import { nearestWord } from '../core/config/nearest.ts';
import type { ServiceKind } from '../core/config/services.ts';
import { configurationError, QazynaError } from '../core/errors/error.ts';
import { listSources } from '../core/history/open.ts';
import type { Context } from './verb.ts';

/** How long one request of a reading verb may fail: a restore of hours must not end with one answer of 503. */
const patienceMs = 60_000;

export interface ArchiveOptions {
  from?: string;
  source?: string;
  credentialsFile?: string;
  keyFile?: string[];
}

export interface NamedArchive {
  /** Its name in the configuration, or its URL. */
  name: string;
  /** All that leads to it. */
  url: string;
  /** The same for messages: without what only opens it. */
  place: string;
}

/** With what opens it. */
interface ChosenArchive extends NamedArchive {
  keys: KeyFiles | null;
}

export interface OpenedNamedArchive extends NamedArchive {
  store: ObjectStore;
  source: string;
}

export function archiveOptions(command: Command): void {
  command.option(
    '--from <name|url>',
    'archive by its name in the configuration, or by URL or folder, without any configuration',
  );
  command.option('--source <name>', 'whose history, where the archive holds several');
  command.option('--credentials-file <file>', 'with --from s3://…: file like ~/.aws/credentials that holds the keys');
  command.option(
    '--key-file <file>',
    'with --from a URL or folder that is encrypted: a file with a key (more than once for several)',
    (file: string, before: string[] = []) => [...before, file],
  );
}

/** The one archive to read from: `--from`, else the first of the configuration that can be opened. */
export async function openOneArchive(context: Context, options: ArchiveOptions): Promise<OpenedNamedArchive> {
  const { archives, config } = await chooseArchives(context, options);
  let failure: unknown;
  for (const archive of archives) {
    try {
      return await open(context, archive, options, config);
    } catch (error) {
      if (!(error instanceof QazynaError)) throw error;
      failure ??= error;
      if (archives.length > 1)
        context.logger.warn(`cannot read from ${archive.name}: ${error.message}`, { code: error.code });
    }
  }
  throw failure;
}

/** Every archive meant, each opened or with the error that stopped it; throws when not one can be opened, unless `tolerant`. */
export async function openEachArchive(
  context: Context,
  options: ArchiveOptions,
  { tolerant }: { tolerant: boolean } = { tolerant: false },
): Promise<{ archive: NamedArchive; opened: OpenedNamedArchive | QazynaError }[]> {
  const { archives, config } = await chooseArchives(context, options);
  const each = await Promise.all(
    archives.map(async ({ keys, ...archive }) => {
      try {
        return { archive, opened: await open(context, { ...archive, keys }, options, config) };
      } catch (error) {
        if (error instanceof QazynaError) return { archive, opened: error };
        throw error;
      }
    }),
  );
  const first = each[0]?.opened;
  if (!tolerant && first instanceof QazynaError && each.every(({ opened }) => opened instanceof QazynaError))
    throw first;
  return each;
}

async function open(
  { signal, logger, environment }: Context,
  { keys, ...archive }: ChosenArchive,
  options: ArchiveOptions,
  config: Config | null,
): Promise<OpenedNamedArchive> {
  const patience = { signal, logger, deadlineMs: patienceMs };
  const warn = (sentence: string) => logger.warn(sentence);
  const { store } = await openArchive(archive.url, { create: false, warn, patience, keys, environment });
  return { ...archive, store, source: options.source ?? config?.source.name ?? (await onlySource(archive, store)) };
}

async function chooseArchives(
  context: Context,
  { from, credentialsFile, keyFile }: ArchiveOptions,
): Promise<{ archives: ChosenArchive[]; config: Config | null }> {
  const url = from === undefined ? null : urlOf(from);
  if (credentialsFile !== undefined && !url?.startsWith('s3:'))
    throw configurationError(
      'QZ2033',
      '--credentials-file goes with --from s3://BUCKET/PREFIX only.',
      'In a configuration, archives.NAME.credentials_file says the same.',
    );
  if (keyFile !== undefined && url === null)
    throw configurationError(
      'QZ2045',
      '--key-file goes with --from URL or --from FOLDER only.',
      'In a configuration, archives.NAME.encryption says the same.',
    );
  if (url !== null) {
    const place = url.replace(/\?.*$/s, '');
    const keys = keysOf(keyFile);
    return { archives: [{ name: place, url: withCredentials(url, credentialsFile), place, keys }], config: null };
  }
  const config = await context.config();
  const archives = config.archives.map(({ name, url, place, encryption }) => ({ name, url, place, keys: encryption }));
  if (from === undefined) return { archives, config };
  const named = archives.filter(({ name }) => name === from);
  if (named.length > 0) return { archives: named, config };
  const names = archives.map(({ name }) => name);
  const near = nearestWord(from, names);
  throw configurationError(
    'QZ2020',
    `There is no archive named ${from} in ${config.file}.`,
    `${near === null ? '' : `Did you mean ${near}? `}It has ${names.join(', ')}; or give a URL: --from file:///srv/qazyna.`,
  );
}

function keysOf(files: readonly string[] | undefined): KeyFiles | null {
  const [keyFile, ...oldKeyFiles] = (files ?? []).map((file) => resolve(file));
  return keyFile === undefined ? null : { keyFile, oldKeyFiles };
}

function withCredentials(url: string, file: string | undefined): string {
  if (file === undefined) return url;
  const whole = new URL(url);
  whole.searchParams.set('credentials_file', resolve(file));
  return whole.href;
}

/** A URL, or a folder by its absolute or dotted path; null for a name. */
function urlOf(from: string): string | null {
  if (/^[a-z][a-z0-9+.-]*:/i.test(from)) return from;
  return isAbsolute(from) || from.startsWith('./') || from.startsWith('../') ? pathToFileURL(resolve(from)).href : null;
}

/** The services beside a source that an archive holds anything of, each with the name of its chain. */
export async function servicesIn({ store, source }: { store: ObjectStore; source: string }) {
  const chains = (await listSources(store)).map((chainName) => ({ chainName, ...ownerOf(chainName) }));
  return chains.flatMap(({ chainName, service, source: owner }) =>
    service === null || owner !== source ? [] : [{ ...service, chainName }],
  );
}

/** The chain of the one service of that kind, or of the one that is named. */
export async function chooseService(opened: OpenedNamedArchive, kind: ServiceKind, name: string | undefined) {
  const found = (await servicesIn(opened)).filter((one) => one.kind === kind);
  const named = name === undefined ? found : found.filter((one) => one.name === name);
  const [first] = named;
  if (first !== undefined && named.length === 1) return first;
  const names = found.map((one) => one.name);
  if (names.length === 0)
    throw configurationError(
      'QZ2040',
      `The archive ${opened.name} holds no ${kind} beside ${opened.source}.`,
      'Check --from and --source; `qazyna windows` lists what an archive holds.',
    );
  throw configurationError(
    'QZ2041',
    name === undefined
      ? `The archive ${opened.name} holds ${names.length} of kind ${kind}, and none was named.`
      : `The archive ${opened.name} holds no ${kind} called ${name}.`,
    `Give --service with one of ${names.join(', ')}.`,
    { details: { services: names } },
  );
}

async function onlySource(archive: NamedArchive, store: ObjectStore): Promise<string> {
  const sources = [...new Set((await listSources(store)).map((name) => ownerOf(name).source))];
  const [first] = sources;
  if (first !== undefined && sources.length === 1) return first;
  if (first === undefined)
    throw configurationError(
      'QZ2021',
      `The archive ${archive.name} holds no history of any source yet.`,
      'Check the URL; history comes with the first second of a running agent.',
    );
  throw configurationError(
    'QZ2022',
    `The archive ${archive.name} holds ${sources.length} sources, and none was named.`,
    `Give --source with one of ${sources.join(', ')}.`,
    { details: { sources } },
  );
}
