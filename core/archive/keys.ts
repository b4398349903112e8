/**
 * The keys of an archive: files of 32 random bytes. A key is known by an id that follows from its bytes, so that whoever
 * looks for a lost one can tell which it was; what it encrypts is only ever an object's own key (sealing.ts).
 */
import { createSecretKey, hkdfSync, type KeyObject, randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { createFile } from '../bytes/durable-file.ts';
import { secretPlace } from '../config/secrets.ts';
import { configurationError } from '../errors/error.ts';
import { errorCode } from './store-error.ts';

export const keyFileBytes = 32;
export const keyIdBytes = 8;

/** Where keys are: what is written is encrypted under `keyFile`; what was written before may need the others. */
export interface KeyFiles {
  keyFile: string;
  oldKeyFiles: readonly string[];
}

export interface ArchiveKey {
  /** 16 hex digits. */
  id: string;
  /** As it was named, for messages. */
  file: string;
  /** Encrypts objects' keys; kept where neither logs nor inspection show its bytes. */
  wrapping: KeyObject;
}

export interface ReadKeysOptions {
  /** Told of a file that everybody on this host may read; one sentence. */
  warn?: (sentence: string) => void;
  environment?: NodeJS.ProcessEnv;
}

export class KeyRing {
  /** What is written is encrypted under this one. */
  readonly newest: ArchiveKey;
  readonly #keys: readonly ArchiveKey[];

  constructor(newest: ArchiveKey, older: readonly ArchiveKey[] = []) {
    this.newest = newest;
    this.#keys = [newest, ...older];
  }

  /** Throws QZ2428 for a file that cannot be read or holds no key. */
  static async read({ keyFile, oldKeyFiles }: KeyFiles, options: ReadKeysOptions = {}): Promise<KeyRing> {
    const newest = await readKey(keyFile, options);
    return new KeyRing(newest, await Promise.all(oldKeyFiles.map((file) => readKey(file, options))));
  }

  get all(): readonly ArchiveKey[] {
    return this.#keys;
  }

  find(id: string): ArchiveKey | null {
    return this.#keys.find((key) => key.id === id) ?? null;
  }
}

/** `bytes` are 32; they are wiped afterwards. */
export function keyOf(bytes: Buffer, file: string): ArchiveKey {
  const derived = (info: string, length: number) =>
    Buffer.from(hkdfSync('sha256', bytes, Buffer.alloc(0), info, length));
  const id = derived('qazyna key id 1', keyIdBytes).toString('hex');
  const wrapping = derived('qazyna key wrap 1', keyFileBytes);
  const key = { id, file, wrapping: createSecretKey(wrapping) };
  for (const secret of [bytes, wrapping]) secret.fill(0);
  return key;
}

/** Read where `secretPlace` says: under systemd a credential of the same file name. Throws QZ2428. */
export async function readKey(file: string, options: ReadKeysOptions = {}): Promise<ArchiveKey> {
  const place = await secretPlace(file, options.environment);
  try {
    // O_NONBLOCK: a pipe in place of the file must not hang the start.
    await using handle = await open(place, constants.O_RDONLY | constants.O_NONBLOCK);
    const { mode, size } = await handle.stat();
    if (size !== keyFileBytes) throw unusable(place, `it has ${size} bytes, not ${keyFileBytes}`);
    if ((mode & constants.S_IROTH) !== 0)
      options.warn?.(`the key file ${place} may be read by everybody on this host; chmod 600 it`);
    const bytes = Buffer.alloc(keyFileBytes);
    const { bytesRead } = await handle.read(bytes, 0, keyFileBytes, 0);
    if (bytesRead !== keyFileBytes) throw unusable(place, `it has ${bytesRead} bytes, not ${keyFileBytes}`);
    return keyOf(bytes, place);
  } catch (error) {
    const code = errorCode(error);
    throw code.startsWith('QZ') ? error : unusable(place, code === '' ? 'it cannot be read' : code);
  }
}

/** A new key in a new file (mode 0600), durable when it resolves; what is there is never overwritten. Throws QZ2430. */
export async function makeKeyFile(file: string): Promise<ArchiveKey> {
  const bytes = randomBytes(keyFileBytes);
  try {
    await createFile(file, bytes, 0o600);
  } catch (error) {
    const code = errorCode(error);
    throw configurationError(
      'QZ2430',
      `No key can be made at ${file}: ${code === 'EEXIST' ? 'there is a file already, and a key is never overwritten' : code}.`,
      'Name a new file in a folder that this account may write to.',
      { cause: error, details: { file } },
    );
  }
  return keyOf(bytes, file);
}

function unusable(file: string, reason: string) {
  return configurationError(
    'QZ2428',
    `The key file ${file} cannot be used: ${reason}.`,
    'Check the path and that this account may read it; `qazyna key new FILE` makes one, which opens nothing that was encrypted before.',
    { details: { file } },
  );
}
