/**
 * Whether an archive is encrypted is said once, in its archive.json, together with its own secret under the key it was made
 * with. What is configured and what is there must agree: nothing is ever written or read in the clear by mistake.
 */
import { randomBytes } from 'node:crypto';
import { configurationError, type QazynaError } from '../errors/error.ts';
import { type ArchiveKey, type KeyRing, keyFileBytes } from './keys.ts';
import { archiveKey, keyRecordKey, keyRecordsPrefix } from './layout.ts';
import { keyNotAtHand, SealedStore, tampered } from './sealed.ts';
import { NotSealed, readHeader, type SealedPlace, seal, sealedBytes, unseal } from './sealing.ts';
import type { ObjectStore } from './store.ts';

export type Encryption = 'none' | 'aes-256-gcm';

/** Codes of what makes a configured encryption unusable, or an archive something else than what is configured. */
const refusals = new Set(['QZ2426', 'QZ2427', 'QZ2428', 'QZ2429']);

export interface EncryptedIdentity {
  id: string;
  encryption: Encryption;
  /** The archive's secret: a sealed object of the name archive.json, in hex; '' without encryption. */
  chunkKey: string;
}

/** Such an error must keep a daemon from starting, however many other archives there are. */
export function refusesToStart({ code }: QazynaError): boolean {
  return refusals.has(code);
}

/** For archive.json: a new secret under the newest key. */
export async function makeChunkKey(archiveId: string, { newest }: KeyRing): Promise<string> {
  const secret = randomBytes(keyFileBytes);
  return (await seal([secret], newest, { archiveId, name: archiveKey })).toString('hex');
}

/** Whether this can be what `makeChunkKey` made: enough to tell which key opens it. */
export function isChunkKey(text: unknown): text is string {
  return (
    typeof text === 'string' &&
    /^[0-9a-f]+$/.test(text) &&
    text.length === 2 * sealedBytes(keyFileBytes) &&
    isSealed(text)
  );
}

function isSealed(hex: string): boolean {
  try {
    return readHeader(Buffer.from(hex, 'hex')) !== null;
  } catch (error) {
    if (error instanceof NotSealed) return false;
    throw error;
  }
}

/** Throws QZ2426 or QZ2427 unless an archive with encryption meets keys, and one without meets none. */
export function requireAgreement(url: string, identity: EncryptedIdentity, keys: KeyRing | null): void {
  if (identity.encryption === 'none' && keys !== null)
    throw configurationError(
      'QZ2427',
      `The archive ${url} was made without encryption, and a key is given for it.`,
      'It cannot be encrypted afterwards: give the encrypted archive a place of its own, or take `encryption` or --key-file away.',
    );
  if (identity.encryption !== 'none' && keys === null)
    throw configurationError(
      'QZ2426',
      `The archive ${url} is encrypted under the key ${readHeader(Buffer.from(identity.chunkKey, 'hex')).keyId}, and no key is given for it.`,
      'Name the key file: `archives.NAME.encryption.key_file` in the configuration, or --key-file with --from.',
    );
}

/** The archive's objects in the clear. Throws QZ2429 when no key at hand opens it, QZ3417 when its secret was tampered with. */
export async function unlock(store: ObjectStore, identity: EncryptedIdentity, keys: KeyRing): Promise<SealedStore> {
  const { id: archiveId } = identity;
  const made = Buffer.from(identity.chunkKey, 'hex');
  const madeWith = readHeader(made).keyId;
  const sealed = (chunkKey: Buffer, key: ArchiveKey) =>
    new SealedStore(store, { keys, archiveId, chunkKey, recorded: [madeWith, key.id] });
  const first = keys.find(madeWith);
  if (first !== null) return sealed(await secretIn(made, first, { archiveId, name: archiveKey }, store.url), first);
  for (const key of keys.all) {
    const name = keyRecordKey(key.id);
    const record = await store.get(name);
    if (record !== null) return sealed(await secretIn(record, key, { archiveId, name }, store.url), key);
  }
  const wanted = [madeWith];
  for await (const { key } of store.list(keyRecordsPrefix)) wanted.push(key.slice(keyRecordsPrefix.length));
  throw keyNotAtHand(`The archive ${store.url} is encrypted under the key ${wanted.join(' or ')}`, wanted, keys);
}

async function secretIn(bytes: Buffer, key: ArchiveKey, place: SealedPlace, url: string): Promise<Buffer> {
  try {
    const secret = await unseal(bytes, key, place);
    if (secret.length === keyFileBytes) return secret;
    throw new NotSealed(`it holds ${secret.length} bytes, not ${keyFileBytes}`);
  } catch (error) {
    throw error instanceof NotSealed ? tampered(place.name, url, error) : error;
  }
}
