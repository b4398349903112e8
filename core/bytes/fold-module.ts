/**
 * A WebAssembly module of one loop, put together here from its instructions: `fold`, the part of a CRC-32 that touches every
 * byte (crc32.ts says what for). It reads 16 bytes at a time, which no JavaScript does.
 *
 * Format: https://webassembly.github.io/spec/core/binary/ (modules, instructions; vector instructions begin with 0xFD).
 */

/** Node has it; of the declarations of types only the browser's say so. */
declare const WebAssembly: {
  Module: new (bytes: Uint8Array) => object;
  Memory: new (pages: { initial: number; maximum: number }) => { readonly buffer: ArrayBuffer };
  Instance: new (module: object, imports: object) => { readonly exports: Record<string, unknown> };
};

/** How far back the bytes stand that go into one: see crc32.ts. */
export const taps = [4018, 2181, 1927] as const;
/** Bytes of one turn of the loop: `fold` takes multiples of it. */
export const turnBytes = 64;
/** Room for the farthest tap, in whole turns. */
export const historyBytes = Math.ceil(taps[0] / turnBytes) * turnBytes;

const vectorBytes = 16;
const i32 = 0x7f;
const empty = 0x40;
const local = { source: 0, end: 1, history: 2, target: 3 } as const;

/** Unsigned and signed numbers of variable length (LEB128). */
function unsigned(value: number): number[] {
  return value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...unsigned(value >>> 7)];
}

function signed(value: number): number[] {
  const isLast = value >= -0x40 && value < 0x40;
  return isLast ? [value & 0x7f] : [(value & 0x7f) | 0x80, ...signed(value >> 7)];
}

function vector(items: readonly number[][]): number[] {
  return [...unsigned(items.length), ...items.flat()];
}

function section(id: number, content: readonly number[]): number[] {
  return [id, ...unsigned(content.length), ...content];
}

function text(value: string): number[] {
  return vector([...Buffer.from(value, 'utf8')].map((byte) => [byte]));
}

const get = (index: number) => [0x20, index];
/** Any alignment (the 0), `offset` behind the address on the stack. */
const load = (offset: number) => [0xfd, 0x00, 0x00, ...unsigned(offset)];
const store = (offset: number) => [0xfd, 0x0b, 0x00, ...unsigned(offset)];
const xor = [0xfd, 0x51];
/** local += count */
const advance = (index: number, count: number) => [0x20, index, 0x41, ...signed(count), 0x6a, 0x21, index];

/** target[at] = source[at] XOR the bytes that stand `taps` before what is made here. */
function step(at: number): number[] {
  const folded = taps.flatMap((tap) => [...get(local.history), ...load(at + historyBytes - tap), ...xor]);
  return [...get(local.target), ...get(local.source), ...load(at), ...folded, ...store(at)];
}

/** do { the steps of one turn } while (source < end) */
function foldCode(): number[] {
  const steps = Array.from({ length: turnBytes / vectorBytes }, (_, index) => step(index * vectorBytes)).flat();
  const next = [local.source, local.history, local.target].flatMap((index) => advance(index, turnBytes));
  const again = [...get(local.source), ...get(local.end), 0x49, 0x0d, 0x00];
  const loop = [0x03, empty, ...steps, ...next, ...again, 0x0b];
  const noLocals = 0x00;
  const body = [noLocals, ...loop, 0x0b];
  return [...unsigned(body.length), ...body];
}

/** Imports `bytes.memory`, of `pages` pages of 64 KiB. */
function moduleBytes(pages: number): Uint8Array {
  const memory = [0x02, 0x01, ...unsigned(pages), ...unsigned(pages)];
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
    ...section(1, vector([[0x60, ...vector([[i32], [i32], [i32], [i32]]), ...vector([])]])),
    ...section(2, vector([[...text('bytes'), ...text('memory'), ...memory]])),
    ...section(3, vector([[0]])),
    ...section(7, vector([[...text('fold'), 0x00, 0x00]])),
    ...section(10, vector([foldCode()])),
  ]);
}

/**
 * For bytes from `source` up to `end` (a multiple of `turnBytes`, and not none): each, XOR those bytes that stand `taps` before
 * its place, goes to `target`. Its place is `history` + `historyBytes`, and moves on with it. All are offsets in the memory.
 */
export type Fold = (source: number, end: number, history: number, target: number) => void;

/** Throws a WebAssembly.CompileError where the processor has no such instructions, a RangeError when memory cannot be had. */
export function foldIn(pages: number): { memory: ArrayBuffer; fold: Fold } {
  const module = new WebAssembly.Module(moduleBytes(pages));
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
  const { fold } = new WebAssembly.Instance(module, { bytes: { memory } }).exports;
  return { memory: memory.buffer, fold: fold as Fold };
}
