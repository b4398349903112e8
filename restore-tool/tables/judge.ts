/** Reads the history once before a filtered replay: is there anything in it that a filter would get wrong? */
import {
  type ChecksumAlgorithm,
  eventType,
  eventTypeName,
  eventTypes,
  firstEventOffset,
  parseFormatDescription,
  trailerBytes,
} from '../../core/binlog/events.ts';
import { gtidText, parseGtid } from '../../core/binlog/gtid-event.ts';
import type { GtidSet } from '../../core/binlog/gtid-set.ts';
import { type PickedEvent, PickedEvents } from '../../core/binlog/picked-events.ts';
import { parseQuery } from '../../core/binlog/statement-events.ts';
import type { BinlogSource } from '../../core/stream/types.ts';
import { nameText, type TableName, type TableScope } from './patterns.ts';
import { judgeStatement } from './statements.ts';

const maxStatementBytes = 16 * 1024 * 1024;
const shownLength = 120;
/** LOAD DATA as a statement (Execute_load_query). */
const executeLoadQuery = 18;
const looked: ReadonlySet<number> = new Set([
  eventTypes.formatDescription,
  eventTypes.gtid,
  eventTypes.gtidTagged,
  eventTypes.anonymousGtid,
  eventTypes.query,
  executeLoadQuery,
]);

export interface Verdict {
  /** Why a filtered replay could go wrong, with statement and GTID; '' when it cannot. */
  harm: string;
  /** `db.table` of the scope that the history makes or changes. */
  named: ReadonlySet<string>;
}

export interface JudgeOptions {
  scope: TableScope;
  /** Contained in the snapshot: not looked at. */
  known: GtidSet;
  signal: AbortSignal;
  onProgress: (doneBytes: number) => void;
}

/** Ends at the first harm. A third of a gigabyte a second or so: nothing is decoded. */
export async function judgeHistory(source: BinlogSource, options: JudgeOptions): Promise<Verdict> {
  const { known, signal, onProgress } = options;
  const named = new Set<string>();
  let doneBytes = 0;
  for (const file of await source.files()) {
    if (file.gtidsAfter !== null && known.containsAll(file.gtidsAfter)) continue;
    const reader = new FileJudge(options, named);
    for await (const chunk of source.read(file.name, firstEventOffset, signal)) {
      if (chunk === null) continue;
      const harm = reader.push(chunk);
      if (harm !== '') return { harm, named };
      doneBytes += chunk.length;
      onProgress(doneBytes);
    }
  }
  signal.throwIfAborted();
  return { harm: '', named };
}

class FileJudge {
  readonly #options: JudgeOptions;
  readonly #named: Set<string>;
  readonly #events = new PickedEvents(looked, maxStatementBytes);
  #checksum: ChecksumAlgorithm = 'crc32';
  #gtid = '';
  #isKnown = false;

  constructor(options: JudgeOptions, named: Set<string>) {
    this.#options = options;
    this.#named = named;
  }

  push(chunk: Buffer): string {
    for (const picked of this.#events.push(chunk)) {
      const harm = this.#look(picked);
      if (harm !== '') return harm;
    }
    return '';
  }

  #look({ event, isWhole }: PickedEvent): string {
    const type = eventType(event, 0);
    if (type === eventTypes.formatDescription) this.#checksum = parseFormatDescription(event).checksum;
    else if (type === eventTypes.query || type === executeLoadQuery) {
      if (this.#isKnown) return '';
      if (!isWhole || type !== eventTypes.query) return `${eventTypeName(type)} in ${this.#gtid}`;
      const { database, statement } = parseQuery(event, event.length - trailerBytes(this.#checksum));
      return this.#judge(statement, database);
    } else {
      const { key, number } = parseGtid(event, this.#checksum);
      this.#isKnown = this.#options.known.has(key, number);
      this.#gtid = gtidText(key, number);
    }
    return '';
  }

  #judge(statement: string, database: string): string {
    const { harm, named } = judgeStatement(statement, database, this.#options.scope);
    for (const table of named) this.#named.add(nameText(table satisfies TableName));
    if (harm === '') return '';
    const text = statement.replaceAll(/\s+/g, ' ').trim();
    const shown = text.length > shownLength ? `${text.slice(0, shownLength)} …` : text;
    return `${harm}: ${shown} (${this.#gtid})`;
  }
}
