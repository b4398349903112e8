/**
 * What this host remembers of its topic: which chain is in it, how far it was seen to go, and the mark of its last record. So
 * a topic that was replaced or cut is noticed over restarts. FORMAT.md ("Kafka topic") has the file's fields.
 */
import { createHash } from 'node:crypto';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { z } from 'zod';
import { entryFixedBytes } from '../../chain/entry.ts';
import { configurationError } from '../../errors/error.ts';

const crcBytes = 4;

const remembered = z.strictObject({
  format: z.literal(1),
  topic: z.string(),
  /** '' while no entry of a chain was seen. */
  chainId: z.string().regex(/^(?:[0-9a-f]{32})?$/),
  next: z.int().min(0),
  /** Of record `next` - 1; '' when next is 0. */
  mark: z.string().regex(/^(?:[0-9a-f]{32})?$/),
});

export type Remembered = z.infer<typeof remembered>;

/** Tells one record from every other: an entry's fixed block names its writer and number, its CRC-32 covers the rest. */
export function markOf(value: Uint8Array): string {
  const hash = createHash('sha256').update(value.subarray(0, entryFixedBytes));
  return hash.update(value.subarray(-crcBytes)).digest('hex').slice(0, 32);
}

/** null when there is none yet, or it is about another topic. Throws QZ2317. */
export async function recall(path: string, topic: string): Promise<Remembered | null> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw unusable(path, 'read', error);
  }
  try {
    const found = remembered.parse(JSON.parse(text));
    return found.topic === topic ? found : null;
  } catch (error) {
    throw unusable(path, 'understood', error);
  }
}

/** Replaced whole. It is a witness, not the truth: a crash may leave an older one, which only knows less. */
export async function remember(path: string, content: Remembered): Promise<void> {
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o750 });
    // Agent and shipper may share it: each replaces it whole, and what the other one knew less of does no harm.
    const part = `${path}.part-${process.pid}`;
    // Flushed: after a power cut a name that came before its bytes would be an empty file, which nothing starts with.
    await writeFile(part, `${JSON.stringify(content)}\n`, { mode: 0o640, flush: true });
    await rename(part, path);
  } catch (error) {
    throw unusable(path, 'written', error);
  }
}

function unusable(path: string, what: string, cause: unknown) {
  return configurationError(
    'QZ2317',
    `The file ${path}, by which the Kafka log knows its topic again, cannot be ${what}.`,
    'Give the account that runs qazyna a writable state_dir; a damaged file may be removed once the topic was compared with the archives.',
    { cause, details: { path } },
  );
}
