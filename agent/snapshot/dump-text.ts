/**
 * What a dump says about itself: the GTIDs it holds (in its head) and that it is whole (its last line). mysqldump writes
 * `SET @@GLOBAL.GTID_PURGED='<set>';` before the first `USE` (a `'+'` in a version comment may precede the set), and
 * `-- Dump completed` at the end (client/mysqldump.cc: add_set_gtid_purged, write_footer).
 */
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { integrityError } from '../../core/errors/error.ts';

/** A set of half a million intervals; the statement stands in the first kilobytes of a dump else. */
const headBytesMax = 16 * 1024 * 1024;
const statement = /^SET @@GLOBAL\.GTID_PURGED=(?:\/\*!80000 '\+'\*\/ ?)?'([^']*)';/m;

export class DumpHead {
  #parts: Buffer[] = [];
  #bytes = 0;
  #gtids: GtidSet | null = null;

  /** Give it the dump's bytes in order; it stops listening once it knows. */
  feed(part: Buffer): void {
    if (this.#gtids !== null || this.#bytes > headBytesMax) return;
    this.#parts.push(Buffer.from(part));
    this.#bytes += part.length;
    if (!part.includes(';')) return;
    const text = Buffer.concat(this.#parts).toString('latin1');
    const data = text.search(/^USE `/m);
    const match = statement.exec(data < 0 ? text : text.slice(0, data));
    if (match !== null) this.#gtids = GtidSet.parse(match[1] ?? '');
    else if (data >= 0) this.#bytes = headBytesMax + 1;
    if (match !== null || this.#bytes > headBytesMax) this.#parts = [];
  }

  /** Throws QZ3509 when the dump does not say. */
  gtids(): GtidSet {
    if (this.#gtids !== null) return this.#gtids;
    throw integrityError(
      'QZ3509',
      'The dump does not say which GTIDs it holds, so it cannot be the base of a restore.',
      "Use MySQL's own mysqldump, and gtid_mode=ON on the source.",
    );
  }
}

export const dumpTail = {
  bytes: 256,
  isWhole(tail: Buffer): boolean {
    return /^-- Dump completed/m.test(tail.toString('latin1'));
  },
};
