/** A folder's binlog files as a source: for tests, benches, and serving what `binlog export` wrote. All files are complete. */
import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import {
  checksumBytes,
  eventServerId,
  eventSize,
  eventType,
  eventTypes,
  firstEventOffset,
  headerBytes,
  parseFormatDescription,
  parsePreviousGtids,
} from '../binlog/events.ts';
import { parseGtid } from '../binlog/gtid-event.ts';
import { GtidSet } from '../binlog/gtid-set.ts';
import { integrityError } from '../errors/error.ts';
import type { BinlogSource, StreamFile } from './types.ts';

const chunkBytes = 256 * 1024;

export interface FilesSourceOptions {
  folder: string;
  /** In the order of history. */
  names: readonly string[];
  /** Nothing at or behind this position of this file is served; files after it are left out. */
  cut?: { file: string; position: number };
}

/** Reads the GTIDs of every file once. QZ3701 when one is no binlog file. */
export async function openFilesSource(options: FilesSourceOptions): Promise<BinlogSource> {
  const files: (StreamFile & { end: number })[] = [];
  const serverIds = new Set<number>();
  let serverVersion = '';
  for (const name of options.names) {
    const isCut = options.cut?.file === name;
    const facts = await scanFile(join(options.folder, name), isCut ? (options.cut?.position ?? 0) : Infinity);
    files.push({ name, gtidsBefore: facts.before, gtidsAfter: facts.after, end: facts.end });
    for (const id of facts.serverIds) serverIds.add(id);
    serverVersion = facts.serverVersion;
    if (isCut) break;
  }
  return {
    serverVersion,
    serverIds,
    files: async () => files,
    async *read(name, from, signal) {
      const end = files.find((file) => file.name === name)?.end ?? 0;
      if (from >= end) return;
      const stream = createReadStream(join(options.folder, name), {
        start: from,
        end: end - 1,
        highWaterMark: chunkBytes,
      });
      for await (const chunk of stream) {
        if (signal.aborted) return;
        yield chunk as Buffer;
      }
    },
  };
}

async function scanFile(path: string, cut: number) {
  const file = await open(path, 'r');
  try {
    const { size } = await file.stat();
    const header = Buffer.alloc(headerBytes);
    const serverIds = new Set<number>();
    let at = firstEventOffset;
    let before = new GtidSet();
    let after = new GtidSet();
    let version = '';
    let checksum: 'none' | 'crc32' = 'none';
    while (at + headerBytes <= Math.min(size, cut)) {
      await file.read(header, 0, headerBytes, at);
      const length = eventSize(header, 0);
      if (length < headerBytes + (at === firstEventOffset ? checksumBytes : 0) || at + length > size) break;
      const type = eventType(header, 0);
      const isLookedInto =
        type === eventTypes.formatDescription ||
        type === eventTypes.previousGtids ||
        type === eventTypes.gtid ||
        type === eventTypes.gtidTagged;
      if (isLookedInto) {
        const event = Buffer.alloc(length);
        await file.read(event, 0, length, at);
        if (type === eventTypes.formatDescription)
          ({ checksum, serverVersion: version } = parseFormatDescription(event));
        else if (type === eventTypes.previousGtids) {
          before = parsePreviousGtids(event, checksum);
          after = before.clone();
        } else {
          const { key, number } = parseGtid(event, checksum);
          after.add(key, number);
          serverIds.add(eventServerId(event, 0));
        }
      }
      at += length;
    }
    if (version === '') throw notABinlog(path);
    return { before, after, end: at, serverIds, serverVersion: version };
  } finally {
    await file.close();
  }
}

function notABinlog(path: string) {
  return integrityError(
    'QZ3703',
    `${path} is no binlog file.`,
    'Give files as the server wrote them, or as `binlog export` did.',
  );
}
