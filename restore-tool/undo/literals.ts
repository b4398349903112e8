/** Pieces of SQL literals, and stored forms that columns and JSON values share. */

export function quotedText(text: string): string {
  return `'${text.replaceAll('\\', '\\\\').replaceAll("'", "''").replaceAll('\n', '\\n')}'`;
}

/** With an exponent, or it would be a DECIMAL. */
export function real(value: number): string {
  const text = Object.is(value, -0) ? '-0' : String(value);
  return text.includes('e') ? text : `${text}e0`;
}

export function packedDatetime(packed: bigint): string {
  const yearMonth = packed >> 22n;
  const date = `${digits(yearMonth / 13n, 4)}-${digits(yearMonth % 13n, 2)}-${digits((packed >> 17n) & 31n, 2)}`;
  return `${date} ${packedClock(packed)}`;
}

export function packedClock(packed: bigint): string {
  return `${digits((packed >> 12n) & 31n, 2)}:${digits((packed >> 6n) & 63n, 2)}:${digits(packed & 63n, 2)}`;
}

export function digits(value: bigint | number, count: number): string {
  return String(value).padStart(count, '0');
}

/** Bytes that 0 to 9 decimal digits take. */
const bytesOfDigits = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];

export function decimalBytes(precision: number, scale: number): number {
  const whole = precision - scale;
  const of = (count: number) => Math.floor(count / 9) * 4 + (bytesOfDigits[count % 9] ?? 0);
  return of(whole) + of(scale);
}

export function readDecimal(stored: Buffer, precision: number, scale: number): string {
  const bytes = Buffer.from(stored);
  const isNegative = ((bytes[0] ?? 0) & 0x80) === 0;
  bytes.writeUInt8((bytes[0] ?? 0) ^ 0x80, 0);
  if (isNegative) for (let at = 0; at < bytes.length; at++) bytes.writeUInt8((bytes[at] ?? 0) ^ 0xff, at);
  const whole = precision - scale;
  let at = 0;
  const take = (count: number): string => {
    const size = bytesOfDigits[count] ?? 4;
    const value = size === 0 ? '' : digits(bytes.readUIntBE(at, size), count);
    at += size;
    return value;
  };
  let text = take(whole % 9);
  for (let group = 0; group < Math.floor(whole / 9); group++) text += take(9);
  text = text.replace(/^0+(?=\d)/, '') || '0';
  let fraction = '';
  for (let group = 0; group < Math.floor(scale / 9); group++) fraction += take(9);
  fraction += take(scale % 9);
  return `${isNegative ? '-' : ''}${text}${scale === 0 ? '' : `.${fraction}`}`;
}
