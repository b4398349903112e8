/** Encrypted stores over given ones, and keys for them. */
import { randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { type ArchiveKey, KeyRing, keyOf } from '../../core/archive/keys.ts';
import { SealedStore } from '../../core/archive/sealed.ts';
import type { ObjectStore } from '../../core/archive/store.ts';

export const madeArchiveId = '00112233445566778899aabbccddeeff';

/** A new one each time, or that of a given byte 32 times. */
export function aKey(byte?: number): ArchiveKey {
  return keyOf(byte === undefined ? randomBytes(32) : Buffer.alloc(32, byte), `key-${byte ?? 'random'}`);
}

/** As `openArchive` gives it for an archive that was made under the newest of these keys. */
export function sealedOver(store: ObjectStore, newest: ArchiveKey, ...older: ArchiveKey[]): SealedStore {
  return new SealedStore(store, {
    keys: new KeyRing(newest, older),
    archiveId: madeArchiveId,
    chunkKey: Buffer.alloc(32, 7),
    recorded: [newest, ...older].map(({ id }) => id),
  });
}

export async function writeKeyFile(path: string): Promise<string> {
  await writeFile(path, randomBytes(32), { mode: 0o600 });
  return path;
}
