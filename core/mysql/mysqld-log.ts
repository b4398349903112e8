/** What mysqld's error log says about why it ended. Format: MySQL Reference Manual, "Error Log Output Format". */
import { open } from 'node:fs/promises';

const readMaxBytes = 256 * 1024;
/** Lines that only say that it gives up, after the one that says why; or that some servers say at every start. */
const afterthoughts =
  /\] Aborting\s*$|\b(Data Dictionary initialization failed|Function '[^']*' already exists|Failed to initialize DD Storage Engine|The newly created data directory|Plugin '.*' (init function returned error|registration as a STORAGE ENGINE failed))/;

/** Errno 28 is ENOSPC; InnoDB says "Operating system error number 28". */
const fullDisk = /\b(error number|errno:?|OS errno) 28\b|No space left on device/i;

export interface ErrorLogReason {
  /** The first error that says why (what follows it follows from it), without time and tags; null when there is none. */
  reason: string | null;
  diskFull: boolean;
  /** Somebody else listens on its TCP port. */
  portTaken: boolean;
}

/** Reads at most the last 256 KiB from byte `start` on. */
export async function reasonInErrorLog(path: string, start: number): Promise<ErrorLogReason> {
  const text = await readTail(path, start);
  const diskFull = fullDisk.test(text);
  const portTaken = /Bind on TCP\/IP port: Address already in use/i.test(text);
  const errors = text.split('\n').filter((line) => /\[ERROR\]/.test(line));
  const first = errors.find((line) => !afterthoughts.test(line)) ?? errors.at(-1);
  // What ran for a while may have complained of something else before.
  const telling = (diskFull ? errors.find((line) => fullDisk.test(line)) : undefined) ?? first;
  if (telling !== undefined) return { reason: withoutTags(telling), diskFull, portTaken };
  const crash = text.split('\n').find((line) => /mysqld got signal|error while loading shared libraries/.test(line));
  const last = text.trim().split('\n').at(-1);
  return { reason: crash?.trim() ?? (last ? withoutTags(last) : null), diskFull, portTaken };
}

function withoutTags(line: string): string {
  return line
    .replace(/^\S+ \d+ \[ERROR\]\s*/, '')
    .replace(/^(\[[\w-]+\]\s*)+/, '')
    .trim();
}

async function readTail(path: string, start: number): Promise<string> {
  const file = await open(path, 'r').catch(() => null);
  if (!file) return '';
  try {
    const { size } = await file.stat();
    const from = Math.max(start, size - readMaxBytes);
    const bytes = Buffer.alloc(Math.max(0, size - from));
    const { bytesRead } = await file.read(bytes, 0, bytes.length, from);
    return bytes.toString('utf8', 0, bytesRead);
  } finally {
    await file.close();
  }
}
