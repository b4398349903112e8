/** From an archive's URL to a store that is known to be an archive of ours (`archive.json`). */
import { randomBytes } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { configurationError, integrityError } from '../errors/error.ts';
import type { RetryOptions } from '../errors/retry.ts';
import { openDirectoryStore } from './directory.ts';
import { type Encryption, isChunkKey, makeChunkKey, requireAgreement, unlock } from './encryption.ts';
import { type KeyFiles, KeyRing } from './keys.ts';
import { archiveKey } from './layout.ts';
import type { Leftovers } from './leftovers.ts';
import { PatientStore } from './patient.ts';
import type { ObjectStore } from './store.ts';
import { errorText } from './store-error.ts';

export const archiveFormat = 1;

export interface OpenStoreOptions {
  /** Writers create the archive where there is none; readers never do. */
  create: boolean;
  /** Told what is unwise but works (an unencrypted way, a credentials file for everybody to read); one sentence. */
  warn?: (sentence: string) => void;
}

export interface ArchiveIdentity {
  /** 32 hex digits, made with the archive. */
  id: string;
  format: number;
  /** ISO 8601, UTC. */
  created: string;
  encryption: Encryption;
  /** Of an encrypted archive (encryption.ts); else ''. */
  chunkKey: string;
}

export interface OpenArchiveOptions extends OpenStoreOptions {
  /** Waits out passing faults. */
  patience?: RetryOptions | undefined;
  /** Keys of an encrypted archive; null or left out for one that is not. */
  keys?: KeyFiles | null | undefined;
  environment?: NodeJS.ProcessEnv;
}

export interface OpenedArchive {
  store: ObjectStore;
  identity: ArchiveIdentity;
}

type Opener = (url: URL, options: OpenStoreOptions) => Promise<ObjectStore>;

/** One opener for each scheme. */
const openers: Record<string, Opener> = {
  'file:': (url, options) => openDirectoryStore(folderOf(url), options),
  // The SDK is loaded by those who need it: it takes longer than most verbs.
  's3:': async (url, { warn }) => {
    const { openS3Store } = await import('./s3.ts');
    return await openS3Store(url, warn === undefined ? {} : { warn });
  },
};

/** What the store behind `url` keeps beside its objects; null where it keeps nothing. Errors as of `openStore`. */
export async function openLeftovers(url: string, warn: (sentence: string) => void): Promise<Leftovers | null> {
  const parsed = new URL(url);
  if (parsed.protocol !== 's3:') return null;
  const { openS3Leftovers } = await import('./s3-leftovers.ts');
  return await openS3Leftovers(parsed, warn);
}

/** The store behind `url`, without looking at what is in it. Throws QZ24xx when the URL or the place is unusable. */
export async function openStore(url: string, options: OpenStoreOptions): Promise<ObjectStore> {
  const parsed = URL.canParse(url) ? new URL(url) : null;
  const opener = parsed === null ? undefined : openers[parsed.protocol];
  if (parsed === null || opener === undefined) {
    throw configurationError(
      'QZ2407',
      `The archive URL ${JSON.stringify(withoutCredentials(url))} is not understood.`,
      'Write file:///absolute/path (three slashes) or s3://bucket/prefix.',
    );
  }
  return await opener(parsed, options);
}

/**
 * The store and its identity; with `create` a new archive is made of an empty place, else QZ2408. A place that cannot be
 * reached is said at once; what fails later is waited out with `patience`, or else tried again by whoever uses the store.
 * Throws QZ2426 to QZ2429 when keys and archive do not fit, before anything is written.
 */
export async function openArchive(url: string, options: OpenArchiveOptions): Promise<OpenedArchive> {
  const { patience, keys: files, ...opening } = options;
  const keys = files == null ? null : await KeyRing.read(files, options);
  const store = await openStore(url, opening);
  const identity = await identifyArchive(store, { create: options.create, keys });
  const patient = patience === undefined ? store : new PatientStore(store, patience);
  return { store: keys === null ? patient : await unlock(patient, identity, keys), identity };
}

/** Throws QZ2426 for an encrypted archive without `keys`, QZ2427 for a plain one with them. */
export async function identifyArchive(
  store: ObjectStore,
  { create, keys = null }: { create: boolean; keys?: KeyRing | null },
): Promise<ArchiveIdentity> {
  const present = await store.get(archiveKey);
  if (present === null && !create) {
    throw configurationError(
      'QZ2408',
      `${store.url} is not an archive: it holds no ${archiveKey}.`,
      'Check the URL; an archive is made by the agent when it first writes to it.',
    );
  }
  const identity = present === null ? await makeArchive(store, keys) : readIdentity(store, present);
  requireAgreement(store.url, identity, keys);
  return identity;
}

/** Of several that make one at the same time, all get the one that was first. */
async function makeArchive(store: ObjectStore, keys: KeyRing | null): Promise<ArchiveIdentity> {
  await store.probe();
  const id = randomBytes(16).toString('hex');
  const identity: ArchiveIdentity = {
    format: archiveFormat,
    id,
    created: new Date().toISOString(),
    encryption: keys === null ? 'none' : 'aes-256-gcm',
    chunkKey: keys === null ? '' : await makeChunkKey(id, keys),
  };
  const { chunkKey, ...plain } = identity;
  const body = Buffer.from(`${JSON.stringify(keys === null ? plain : { ...plain, chunkKey }, null, 2)}\n`);
  if ((await store.putIfAbsent(archiveKey, [body])) === 'created') return identity;
  const winner = await store.get(archiveKey);
  return readIdentity(store, winner ?? Buffer.alloc(0));
}

function readIdentity(store: ObjectStore, bytes: Buffer): ArchiveIdentity {
  const damaged = () =>
    integrityError('QZ3404', `${archiveKey} in ${store.url} is damaged.`, 'Write it anew as FORMAT.md describes it.');
  const found = parseObject(bytes.toString());
  if (found === null) throw damaged();
  const { format, id, created, encryption, chunkKey } = found;
  if (typeof format !== 'number' || typeof id !== 'string' || typeof created !== 'string') throw damaged();
  if (format > archiveFormat || (encryption !== 'none' && encryption !== 'aes-256-gcm')) {
    throw configurationError(
      'QZ2409',
      `The archive ${store.url} has format ${format}, encryption ${String(encryption)}: newer than this version knows.`,
      'Use the version of qazyna that made it, or a newer one.',
    );
  }
  if (encryption === 'none') return { format, id, created, encryption, chunkKey: '' };
  if (!/^[0-9a-f]{32}$/.test(id) || !isChunkKey(chunkKey)) throw damaged();
  return { format, id, created, encryption, chunkKey };
}

/** A JSON object, or null for anything else. */
export function parseObject(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? { ...value } : null;
  } catch {
    return null;
  }
}

function folderOf(url: URL): string {
  try {
    if (url.search !== '' || url.hash !== '') throw new Error('it has a ? or # part; write those as %3F and %23');
    const path = fileURLToPath(url);
    return path.length > 1 ? path.replace(/\/+$/, '') : path;
  } catch (error) {
    throw configurationError(
      'QZ2407',
      `The archive URL ${JSON.stringify(url.href)} is not understood: ${errorText(error)}.`,
      'Write file:///absolute/path (three slashes).',
      { cause: error },
    );
  }
}

function withoutCredentials(url: string): string {
  return url.replace(/\/\/[^/@]*@/, '//').slice(0, 200);
}
