/**
 * Checks the CRC-32 of many small events with one pass over their bytes together.
 *
 * An event followed by its own CRC-32 (little-endian) has the CRC-32 0x2144df1c, whatever the event. So the CRC-32 that a run of
 * whole, sound events must have follows from their lengths alone: crc(A·B) = crc(A)·x^(8·|B|) + crc(B) over GF(2). Per event
 * that is one multiplication in JavaScript; the bytes are then read once, in native code, in ranges of up to an entry.
 * A wrong bit anywhere changes the result (the multiplications can be undone); two errors cancel with probability 2^-32.
 *
 * Method: crc32_combine of zlib (crc32.c, public documentation in zlib.h).
 */
const polynomial = 0xedb88320 | 0;
/** CRC-32 of any bytes followed by their CRC-32. */
const residue = 0x2144df1c;
const tableLength = 1 << 16;

/** a·b modulo the polynomial; bit 31 is the coefficient of x^0. */
function multiply(a: number, b: number): number {
  let product = 0;
  let factor = b | 0;
  for (let bits = a | 0; bits !== 0; bits <<= 1) {
    product ^= factor & (bits >> 31);
    factor = (factor >>> 1) ^ (polynomial & -(factor & 1));
  }
  return product;
}

/** x^(8·length) for every length below `tableLength`. */
const powers = new Int32Array(tableLength);
powers[0] = 1 << 31;
powers[1] = 1 << 23;
for (let length = 2; length < tableLength; length++) powers[length] = multiply(powers[length - 1] ?? 0, 1 << 23);

function power(length: number): number {
  if (length < tableLength) return powers[length] ?? 0;
  let result = powers[length % tableLength] ?? 0;
  // x^(8·tableLength), squared for each further bit of the length.
  let factor = multiply(powers[tableLength - 1] ?? 0, 1 << 23);
  for (let rest = Math.floor(length / tableLength); rest > 0; rest = Math.floor(rest / 2)) {
    if (rest % 2 === 1) result = multiply(result, factor);
    factor = multiply(factor, factor);
  }
  return result;
}

/** The CRC-32 of what had CRC-32 `before`, followed by one sound event of `length` bytes (its CRC-32 included). */
export function afterSoundEvent(before: number, length: number): number {
  return multiply(power(length), before) ^ residue;
}

/** The CRC-32 of the last `length` bytes of what has CRC-32 `whole`, when all before them has CRC-32 `before`. */
export function crcOfRest(whole: number, before: number, length: number): number {
  return (whole ^ multiply(power(length), before)) >>> 0;
}
