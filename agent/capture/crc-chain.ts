/**
 * Checks the CRC-32 of many small events with one pass over their bytes together.
 *
 * An event followed by its own CRC-32 (little-endian) has the CRC-32 0x2144df1c, whatever the event. So the CRC-32 that a run of
 * whole, sound events must have follows from their lengths alone: crc(A·B) = crc(A)·x^(8·|B|) + crc(B) over GF(2). The bytes are
 * then read once, in native code, in ranges of up to an entry.
 * A wrong bit anywhere changes the result (the multiplications can be undone); two errors cancel with probability 2^-32.
 *
 * Of a run with ends e1 < e2 < … < n the formula gives crc = x^(8n)·(before + Σ residue·x^(-8·ei)). The terms of the sum stand in
 * a table, so that an event costs one look and one XOR; the two multiplications come once for each table's length of bytes.
 *
 * Method: crc32_combine of zlib (crc32.c, public documentation in zlib.h).
 */
const polynomial = 0xedb88320 | 0;
/** CRC-32 of any bytes followed by their CRC-32. */
const residue = 0x2144df1c;
const tableLength = 1 << 16;
/** The polynomial x^0; bit 31 is the coefficient of x^0. */
const one = 1 << 31;

/** a·b modulo the polynomial. */
function multiply(a: number, b: number): number {
  let product = 0;
  let factor = b | 0;
  for (let bits = a | 0; bits !== 0; bits <<= 1) {
    product ^= factor & (bits >> 31);
    factor = (factor >>> 1) ^ (polynomial & -(factor & 1));
  }
  return product;
}

/** At 256·k + byte: x^(8·byte·256^k). Six bytes hold every length below 2^48. */
const powers = new Int32Array(6 * 256);
for (let k = 0, step = one >>> 8; k < 6; k++) {
  powers[256 * k] = one;
  for (let byte = 1; byte < 256; byte++) powers[256 * k + byte] = multiply(powers[256 * k + byte - 1] ?? 0, step);
  step = multiply(powers[256 * k + 255] ?? 0, step);
}

/** x^(8·length). */
function power(length: number): number {
  let result = powers[length & 0xff] ?? 0;
  for (let k = 1, rest = Math.floor(length / 256); rest > 0; k++, rest = Math.floor(rest / 256))
    result = multiply(powers[256 * k + (rest & 0xff)] ?? 0, result);
  return result;
}

/** residue·x^(-8·end) for every end below `tableLength`. */
const residues = new Int32Array(tableLength);
/** By the highest byte that a division by x^8 shifts out: what it leaves. */
const borrows = Int32Array.from({ length: 256 }, (_, byte) => {
  let value = byte << 24;
  for (let bit = 0; bit < 8; bit++) value = value < 0 ? ((value ^ polynomial) << 1) | 1 : value << 1;
  return value;
});
residues[0] = residue;
for (let end = 1; end < tableLength; end++) {
  const last = residues[end - 1] ?? 0;
  residues[end] = (last << 8) ^ (borrows[last >>> 24] ?? 0);
}

/** The CRC-32 that a run of sound events must have, from their lengths. */
export class SoundCrc {
  /** That of the events up to some point, how many bytes ended behind it, and the sum over these events. */
  #before = 0;
  #length = 0;
  #sum = 0;

  reset(): void {
    this.#before = 0;
    this.#length = 0;
    this.#sum = 0;
  }

  /** One more event of `size` bytes, its CRC-32 included. */
  add(size: number): void {
    if (this.#length + size >= tableLength) this.#fold();
    if (size >= tableLength) {
      this.#before = multiply(power(size), this.#before) ^ residue;
      return;
    }
    this.#length += size;
    this.#sum ^= residues[this.#length] ?? 0;
  }

  get value(): number {
    this.#fold();
    return this.#before >>> 0;
  }

  #fold(): void {
    if (this.#length === 0) return;
    this.#before = multiply(power(this.#length), this.#before ^ this.#sum);
    this.#length = 0;
    this.#sum = 0;
  }
}

/** The CRC-32 of the last `length` bytes of what has CRC-32 `whole`, when all before them has CRC-32 `before`. */
export function crcOfRest(whole: number, before: number, length: number): number {
  return (whole ^ multiply(power(length), before)) >>> 0;
}
