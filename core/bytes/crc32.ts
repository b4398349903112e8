/**
 * CRC-32 (that of zlib, of binlog events and of the log) at the speed at which memory is read, for bytes that lie in memory set
 * aside for it. zlib as Node has it looks up tables, 4.8 GB/s here; that was a seventh of all the processor time of a capture.
 *
 * A message is a polynomial over GF(2), and its CRC is what it leaves when divided by the CRC's own polynomial P. So any multiple
 * of P may be added to it. This one has four terms only, all of them whole bytes apart (x here stands for eight bits):
 *   x^4018 + x^2091 + x^1837 + 1
 * Adding it, times the first byte, clears that byte and changes three others: those that follow it after 1927, 2181 and 4018
 * bytes. Done with one byte after the other it clears all but the last 4018, and each step is an XOR of what lies in memory.
 * The rest is left to zlib. Terms and distances are found by search; a test divides them by P.
 *
 * Method: "Chorba", https://arxiv.org/abs/2412.16398, which goes on from sparse multiples in another way.
 */
import { crc32 as zlibCrc32 } from 'node:zlib';
import { type Fold, foldIn, historyBytes, taps, turnBytes } from './fold-module.ts';

/** Fewer bytes are summed up as quickly by zlib. */
const foldFromBytes = 16 * 1024;
/** Folded bytes are kept for so long, in the processor's nearest cache. */
const blockBytes = 32 * 1024;
const scratchBytes = historyBytes + blockBytes;
const pageBytes = 64 * 1024;
/** What `zlibCrc32` begins with when its register is to be zero. */
const zeroRegister = 0xffffffff;

/** By the memory that their bytes lie in. */
const folders = new WeakMap<ArrayBufferLike, Folder>();

/** CRC-32 of `bytes`, or of bytes that have CRC-32 `before` and these behind them. */
export function crc32(bytes: Buffer, before = 0): number {
  if (bytes.length < foldFromBytes) return zlibCrc32(bytes, before);
  return folders.get(bytes.buffer)?.crc32(bytes, before) ?? zlibCrc32(bytes, before);
}

/**
 * Memory of so many bytes in which `crc32` is quick, zeroed; null where it cannot be had. It is not given back before the
 * collector finds that nothing of it is in use; pages that nothing was written to cost nothing.
 */
export function summedMemory(bytes: number): Buffer | null {
  try {
    const { memory, fold } = foldIn(Math.ceil((scratchBytes + bytes) / pageBytes));
    folders.set(memory, new Folder(memory, fold));
    return Buffer.from(memory, scratchBytes, bytes);
  } catch {
    return null;
  }
}

class Folder {
  readonly #all: Buffer;
  readonly #fold: Fold;

  constructor(memory: ArrayBuffer, fold: Fold) {
    this.#all = Buffer.from(memory);
    this.#fold = fold;
  }

  /** `bytes` are of this memory, and at least as many as the history. */
  crc32(bytes: Buffer, before: number): number {
    const { byteOffset: start, length } = bytes;
    const all = this.#all;
    // Nothing stands before the first byte, but what the CRC's register holds is added to the first four.
    all.fill(0, 0, historyBytes);
    all.writeUInt32LE(~before >>> 0, historyBytes - taps[0]);
    const end = start + length - historyBytes - ((length - historyBytes) % turnBytes);
    for (let at = start; at < end; at += blockBytes) {
      const size = Math.min(blockBytes, end - at);
      this.#fold(at, at + size, 0, historyBytes);
      all.copyWithin(0, size, size + historyBytes);
    }
    // The bytes that are left take the last of what was cleared, and clear nothing themselves.
    all.fill(0, historyBytes, 2 * historyBytes);
    this.#fold(end, end + historyBytes, 0, 2 * historyBytes);
    const folded = zlibCrc32(all.subarray(2 * historyBytes, 3 * historyBytes), zeroRegister);
    return zlibCrc32(all.subarray(end + historyBytes, start + length), folded);
  }
}
