/** A cursor over one small control event. Every read is checked: past the end is QZ3202, beyond 2^53 too. */
import { integrityError, type QazynaError } from '../errors/error.ts';

export class FieldReader {
  readonly #bytes: Buffer;
  readonly #what: string;
  #offset: number;
  #end: number;

  /** Reads `bytes` from `offset` up to `end`; `what` names the event in messages. */
  constructor(bytes: Buffer, offset: number, end: number, what: string) {
    this.#bytes = bytes;
    this.#what = what;
    this.#offset = offset;
    this.#end = end;
    if (end < offset || end > bytes.length) throw this.malformed('is too short');
  }

  get left(): number {
    return this.#end - this.#offset;
  }

  get offset(): number {
    return this.#offset;
  }

  /** Make the rest end earlier, at `end` of the underlying bytes. */
  narrowTo(end: number): void {
    if (end < this.#offset || end > this.#end) throw this.malformed('has an inner length beyond its end');
    this.#end = end;
  }

  malformed(how: string): QazynaError {
    return malformedEvent(this.#what, how);
  }

  skip(size: number): number {
    if (size > this.left) throw this.malformed('ends early');
    const start = this.#offset;
    this.#offset += size;
    return start;
  }

  u8(): number {
    return this.#bytes.readUInt8(this.skip(1));
  }

  u16(): number {
    return this.#bytes.readUInt16LE(this.skip(2));
  }

  u32(): number {
    return this.#bytes.readUInt32LE(this.skip(4));
  }

  u56(): { low55: number; top: boolean } {
    const at = this.skip(7);
    const high = this.#bytes.readUIntLE(at + 4, 3);
    const low55 = this.#bytes.readUInt32LE(at) + (high & 0x7fffff) * 2 ** 32;
    return { low55: this.#safe(low55), top: (high & 0x800000) !== 0 };
  }

  u64(): number {
    const at = this.skip(8);
    return this.#safe(this.#bytes.readUInt32LE(at) + this.#bytes.readUInt32LE(at + 4) * 2 ** 32);
  }

  uuid(): string {
    const at = this.skip(16);
    return formatUuid(this.#bytes, at);
  }

  text(size: number): string {
    const at = this.skip(size);
    return this.#bytes.toString('latin1', at, at + size);
  }

  bytes(size: number): Buffer {
    const at = this.skip(size);
    return this.#bytes.subarray(at, at + size);
  }

  /** Length-encoded integer of the client/server protocol (`net_field_length_ll`, mysys/pack.cc). */
  lengthEncoded(): number {
    const first = this.u8();
    if (first < 0xfb) return first;
    if (first === 0xfc) return this.u16();
    if (first === 0xfd) {
      const at = this.skip(3);
      return this.#bytes.readUIntLE(at, 3);
    }
    if (first === 0xfe) return this.u64();
    throw this.malformed('has an impossible length-encoded integer');
  }

  /**
   * Variable-length unsigned integer of libs/mysql/serialization: as many further bytes as the first byte has trailing ones,
   * little-endian, the value above those ones and the zero that ends them.
   */
  varlen(): number {
    const first = this.u8();
    let further = 0;
    while (further < 8 && first & (1 << further)) further++;
    let value = further === 8 ? 0 : first >> (further + 1);
    // What the first byte holds of the value is 7 − further bits (none from 7 on).
    let weight = 2 ** Math.max(0, 7 - further);
    for (let index = 0; index < further; index++) {
      value += this.u8() * weight;
      weight *= 256;
    }
    return this.#safe(value);
  }

  /** The signed form: the sign in the lowest bit. */
  signedVarlen(): number {
    const folded = this.varlen();
    return folded % 2 === 0 ? folded / 2 : -(folded + 1) / 2;
  }

  #safe(value: number): number {
    if (!Number.isSafeInteger(value)) throw this.malformed('has a number beyond 2^53');
    return value;
  }
}

export function formatUuid(bytes: Buffer, offset: number): string {
  const hex = bytes.toString('hex', offset, offset + 16);
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

export function malformedEvent(what: string, how: string): QazynaError {
  return integrityError(
    'QZ3202',
    `A ${what} event ${how}.`,
    'The bytes are damaged or come from a server this version does not know; compare with what `mysqlbinlog` prints there.',
  );
}
