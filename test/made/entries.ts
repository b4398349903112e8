/** Entries that continue one another, for logs and writers: a claim, then events of one file after the other. */
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { emptyDraft } from '../../core/chain/draft.ts';
import type { Entry, EntryKind } from '../../core/chain/types.ts';
import { madeChainId, madeUuid } from './chain.ts';

export class EntryMaker {
  next = 0;
  #file = 1;
  #end = 0;
  #transactions = 0;

  claim(): Entry {
    return this.#made('claim', {});
  }

  heartbeat(completeThroughMicros = 1): Entry {
    return this.#made('heartbeat', { completeThroughMicros });
  }

  /** One transaction, of as many bytes; `opens`: in the next file. */
  events(bytes = 100, { opens = false } = {}): Entry {
    const gtidsBefore = new GtidSet();
    if (this.#transactions > 0) gtidsBefore.add(madeUuid, 1, this.#transactions);
    const isFirst = this.#end === 0 || opens;
    if (opens && this.#end > 0) this.#file += 1;
    const start = isFirst ? 4 : this.#end;
    this.#end = start + bytes;
    this.#transactions += 1;
    const gtidsAdded = new GtidSet();
    gtidsAdded.add(madeUuid, this.#transactions);
    const place = { start, end: this.#end, boundary: this.#end, transactionStart: this.#end };
    // Not to be compressed away: sizes on the disk matter to these tests.
    const body = Buffer.alloc(bytes);
    for (let at = 0, value = this.next + 1; at < bytes; at += 1) {
      value = (value * 1_103_515_245 + 12_345) % 2 ** 31;
      body[at] = value >> 16;
    }
    return this.#made('events', {
      ...place,
      file: `binlog.${String(this.#file).padStart(6, '0')}`,
      gtidsAdded,
      gtidsBefore: isFirst ? gtidsBefore : null,
      firstCommitMicros: this.#transactions,
      lastCommitMicros: this.#transactions,
      body,
    });
  }

  #made(kind: EntryKind, changes: Partial<Entry>): Entry {
    const number = this.next;
    this.next += 1;
    return {
      ...emptyDraft(kind, madeUuid),
      chainId: madeChainId,
      generation: 1,
      writer: 'aa'.repeat(16),
      number,
      ...changes,
    };
  }
}
