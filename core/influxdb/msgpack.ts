/**
 * MessagePack (github.com/msgpack/msgpack, spec.md) as InfluxDB 1.x writes it (services/httpd/response_writer.go), from bytes
 * that come in any pieces. Texts stay bytes, because they need not be UTF-8; 64-bit integers stay exact.
 */

/** Thrown by a reader that has come to the end of its bytes: read on from where the whole value began, with more of them. */
export const needMore = Symbol('more bytes are needed');

export class MsgpackReader {
  bytes: Buffer = Buffer.alloc(0);
  at = 0;

  /** What was read is let go of. */
  push(more: Buffer): void {
    const rest = this.bytes.length - this.at;
    this.bytes = rest === 0 ? more : Buffer.concat([this.bytes.subarray(this.at), more]);
    this.at = 0;
  }

  get isEmpty(): boolean {
    return this.at >= this.bytes.length;
  }

  marker(): number {
    if (this.at >= this.bytes.length) throw needMore;
    return this.bytes[this.at++] ?? 0;
  }

  mapLength(): number {
    const marker = this.marker();
    if (marker >= 0x80 && marker <= 0x8f) return marker & 0x0f;
    if (marker === 0xde) return this.#length(2);
    if (marker === 0xdf) return this.#length(4);
    throw unexpected(marker, 'a map');
  }

  arrayLength(): number {
    const marker = this.marker();
    if (marker >= 0x90 && marker <= 0x9f) return marker & 0x0f;
    if (marker === 0xdc) return this.#length(2);
    if (marker === 0xdd) return this.#length(4);
    throw unexpected(marker, 'an array');
  }

  /** A view into the present bytes, good until the next push. */
  text(): Buffer {
    const length = this.textLength(this.marker());
    if (length < 0) throw unexpected(this.bytes[this.at - 1] ?? 0, 'a text');
    return this.take(length);
  }

  /** How long the text is that begins with this marker; -1 when none does. */
  textLength(marker: number): number {
    if (marker >= 0xa0 && marker <= 0xbf) return marker & 0x1f;
    if (marker === 0xd9) return this.#length(1);
    if (marker === 0xda) return this.#length(2);
    if (marker === 0xdb) return this.#length(4);
    return -1;
  }

  take(length: number): Buffer {
    if (this.at + length > this.bytes.length) throw needMore;
    this.at += length;
    return this.bytes.subarray(this.at - length, this.at);
  }

  boolean(): boolean {
    const marker = this.marker();
    if (marker === 0xc3) return true;
    if (marker === 0xc2) return false;
    throw unexpected(marker, 'true or false');
  }

  /** As decimal digits. */
  integer(): string {
    const marker = this.marker();
    const digits = this.integerDigits(marker);
    if (digits === null) throw unexpected(marker, 'an integer');
    return digits;
  }

  /** The integer that begins with this marker, as decimal digits; null when none does. */
  integerDigits(marker: number): string | null {
    if (marker <= 0x7f) return String(marker);
    if (marker >= 0xe0) return String(marker - 0x100);
    switch (marker) {
      case 0xcc:
        return String(this.take(1).readUInt8());
      case 0xcd:
        return String(this.take(2).readUInt16BE());
      case 0xce:
        return String(this.take(4).readUInt32BE());
      case 0xcf:
        return String(this.take(8).readBigUInt64BE());
      case 0xd0:
        return String(this.take(1).readInt8());
      case 0xd1:
        return String(this.take(2).readInt16BE());
      case 0xd2:
        return String(this.take(4).readInt32BE());
      case 0xd3:
        return String(this.take(8).readBigInt64BE());
      default:
        return null;
    }
  }

  /** Any value, passed over. */
  skip(): void {
    const marker = this.marker();
    if (marker === 0xc0 || marker === 0xc2 || marker === 0xc3 || this.integerDigits(marker) !== null) return;
    const length = this.textLength(marker);
    if (length >= 0) this.take(length);
    else if (marker === 0xca) this.take(4);
    else if (marker === 0xcb) this.take(8);
    else {
      this.at -= 1;
      const isMap = (marker & 0xf0) === 0x80 || marker === 0xde || marker === 0xdf;
      const values = isMap ? 2 * this.mapLength() : this.arrayLength();
      for (let value = 0; value < values; value += 1) this.skip();
    }
  }

  #length(bytes: 1 | 2 | 4): number {
    return this.take(bytes).readUIntBE(0, bytes);
  }
}

export function unexpected(marker: number, wanted: string): Error {
  return new Error(`the byte ${marker} begins no such value as expected: ${wanted}`);
}
