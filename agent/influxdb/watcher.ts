/**
 * Looks after one InfluxDB: that each of its writes is forwarded, and that what was not forwarded comes in after all. A
 * subscription never retries and only counts what it drops; so whenever that count rose, or the server or this agent was
 * restarted, the shards that changed since all was known to be well are exported again, whole, into the journal.
 *
 * The *mark* is what the server told when everything accepted until then is known to be in the journal. It moves on to a
 * later look only once that look's writes, too, have come in: InfluxDB forwards them later, and may drop them later.
 */
import {
  type Definitions,
  durationMs,
  readDefinitions,
  readFieldTypes,
  readShards,
  type Shard,
} from '../../core/influxdb/definitions.ts';
import { type Checked, checkedItem, definitionsItem, fieldsItem } from '../../core/influxdb/frames.ts';
import type { InfluxdbServer } from '../../core/influxdb/server.ts';
import { frameBodyMax, type JournalItem } from '../../core/journal/frame.ts';
import type { JournalWriter } from '../../core/journal/writer.ts';
import type { Logger } from '../../core/logging/logger.ts';
import type { Ingest } from './ingest.ts';
import type { Positions } from './positions.ts';
import { exportShards } from './reexport.ts';
import { lostBetween, readServerState, type ServerState, shardsInDoubt } from './server-state.ts';
import { awaitSubscriptions, ensureSubscriptions, type Place, readQueueMax } from './subscriptions.ts';

export interface WatcherOptions {
  server: InfluxdbServer;
  /** null: all databases but _internal. */
  only: readonly string[] | null;
  subscription: { name: string; destination: string };
  journal: Pick<JournalWriter, 'append' | 'room' | 'heartbeat' | 'position'>;
  ingest: Pick<Ingest, 'deliveredSince'>;
  positions: Positions;
  /** What was known when the journal was last written to; null: nothing is. */
  checked: Checked | null;
  /** What may be missing is unknown, or too much for the journal: a snapshot is to hold it. */
  onSnapshotDue: () => void;
  logger: Logger;
  signal: AbortSignal;
}

/** One look at the server. */
interface Look {
  state: ServerState;
  atMs: number;
  atMicros: number;
  /** Read closely; null where nothing asked for that. */
  shards: readonly Shard[] | null;
  newly: readonly Place[];
}

const lookCloselyEveryMs = 60_000;
const checkedEveryMs = 60_000;
/** What is new here comes in through the journal up to this size, and by a snapshot beyond. */
const journaledMaxBytes = 64 * 1024 * 1024;
/** A snapshot replays what came in a while before it began (positions.ts): it waits until that is later than what was dropped. */
const afterDropMs = 20_000;
/** Retention goes by the server's clock, and only now and then. */
const clocksDifferMs = 600_000;

export class Watcher {
  readonly counters = { lost_writes_total: 0, reexported_shards_total: 0, reexported_points_total: 0 };
  readonly #options: WatcherOptions;
  #mark: Checked | null;
  /** An earlier look, which becomes the mark once its writes have come in. */
  #candidate: Look | null = null;
  #outline: string | null = null;
  #lookedCloselyMs = Number.NEGATIVE_INFINITY;
  #checkedMs = Number.NEGATIVE_INFINITY;
  #definitionsText = '';
  #schemas = new Map<string, string>();
  #places: readonly Place[] = [];
  #shards: readonly Shard[] = [];
  /** When shards were found dropped that no snapshot has seen dropped yet (performance.now()). */
  #droppedMs: number | null = null;
  #queueMax = 0;
  /** Not before: a server that drops again and again must not be asked for everything all the time. */
  #nextExportMs = 0;
  /** A snapshot that begins after this (performance.now()) holds what the journal lacks; null: it lacks nothing. */
  #lacksUntilMs: number | null = null;

  constructor(options: WatcherOptions) {
    this.#options = options;
    this.#mark = options.checked;
  }

  /** Throws transient errors: then nothing is known, and the next look makes up for it. */
  async look(): Promise<void> {
    const { journal, positions, logger } = this.#options;
    const look = await this.#read();
    if (this.#mark === null) this.#beginAnew(look);
    const mark = this.#mark;
    if (mark !== null && lostBetween(mark, look.state)) {
      this.#noteLoss(mark, look.state);
      if (performance.now() >= this.#nextExportMs) await this.#makeUp(mark, look);
      else logger.debug('what InfluxDB dropped is exported a little later', { component: 'influxdb' });
    } else {
      if (mark !== null && look.newly.length > 0) await this.#makeUp(mark, look);
      await this.#moveOn(look);
    }
    await this.#noteSchemas(look.state);
    positions.note(journal.position);
    if (this.#droppedMs === null || performance.now() - this.#droppedMs < afterDropMs) return;
    this.#droppedMs = null;
    this.#options.onSnapshotDue();
  }

  /** A snapshot is complete that began then (performance.now()). */
  snapshotTaken(beganMs: number): void {
    if (this.#lacksUntilMs !== null && beganMs >= this.#lacksUntilMs) this.#lacksUntilMs = null;
  }

  /** For an orderly end: the next start goes on from here. */
  async finish(): Promise<void> {
    await this.#noteChecked();
  }

  async #read(): Promise<Look> {
    const { server, only, signal } = this.#options;
    const atMs = performance.now();
    const atMicros = Date.now() * 1000;
    let state = await readServerState(server, only, signal);
    if (state.outline === this.#outline && atMs - this.#lookedCloselyMs < lookCloselyEveryMs)
      return { state, atMs, atMicros, shards: null, newly: [] };
    const { definitions, newly } = await this.#subscribe();
    // Only now all of their writes come in; what changed before must look changed.
    if (newly.length > 0) state = await readServerState(server, only, signal);
    const names = definitions.databases.map(({ name }) => name);
    const shards = await readShards(server, names, signal);
    this.#noteDropped(shards, definitions);
    this.#outline = state.outline;
    this.#lookedCloselyMs = atMs;
    return { state, atMs, atMicros, shards, newly };
  }

  /** A shard that went before its time was dropped, perhaps with its database, which may be there anew: only a snapshot shows that. */
  #noteDropped(shards: readonly Shard[], definitions: Definitions): void {
    const before = this.#shards;
    this.#shards = shards;
    const present = new Set(shards.map(({ id }) => id));
    const gone = before.filter((shard) => !present.has(shard.id) && !isExpired(shard, definitions));
    if (gone.length === 0) return;
    const { logger } = this.#options;
    logger.info(`${gone.length} shards were dropped: a snapshot is due`, { component: 'influxdb' });
    this.#droppedMs = performance.now();
  }

  /** Definitions and subscriptions as they are now; `newly`: places that were not forwarded until now. */
  async #subscribe(): Promise<{ definitions: Definitions; newly: Place[] }> {
    const { server, only, subscription, logger, signal } = this.#options;
    const definitions = await readDefinitions(server, only, signal);
    const made = await ensureSubscriptions(definitions, { server, ...subscription, logger, signal });
    if (made.length > 0) await awaitSubscriptions(made, { server, ...subscription, signal });
    this.#queueMax = await readQueueMax(server, signal);
    const text = JSON.stringify(definitions);
    if (text !== this.#definitionsText) await this.#append(definitionsItem(definitions));
    this.#definitionsText = text;
    this.#places = placesOf(definitions);
    const known = this.#mark?.subscribed ?? [];
    const isKnown = ({ database, policy }: Place) => known.some(([db, rp]) => db === database && rp === policy);
    const isMade = (place: Place) => made.some((one) => samePlace(one, place));
    const newly = this.#mark === null ? [] : this.#places.filter((place) => isMade(place) || !isKnown(place));
    return { definitions, newly };
  }

  /** Nothing is known of what came before: a snapshot is to hold it. */
  #beginAnew(look: Look): void {
    this.#needSnapshot();
    this.#mark = checkedOf(look.state, this.#places);
    this.#candidate = null;
  }

  #needSnapshot(): void {
    this.#lacksUntilMs = performance.now();
    this.#options.onSnapshotDue();
  }

  /** Exports what is in doubt; after that, all that was accepted before this look is in the journal. */
  async #makeUp(mark: Checked, look: Look): Promise<void> {
    const { server, signal } = this.#options;
    const names = [...new Set(this.#places.map(({ database }) => database))];
    const shards = look.shards ?? (await readShards(server, names, signal));
    const doubted = shardsInDoubt(mark, look.state, shards, look.newly);
    const isLost = lostBetween(mark, look.state);
    const bytes = doubted.reduce((sum, { id }) => sum + (look.state.shards[String(id)]?.[1] ?? 0), 0);
    if (!isLost && bytes > journaledMaxBytes) this.#needSnapshot();
    else {
      const startedMs = performance.now();
      const points = await exportShards(doubted, this.#options);
      this.counters.reexported_shards_total += doubted.length;
      this.counters.reexported_points_total += points;
      if (isLost) this.#nextExportMs = 2 * performance.now() - startedMs;
    }
    this.#mark = isLost
      ? checkedOf(look.state, this.#places)
      : {
          ...mark,
          subscribed: this.#places.map(({ database, policy }) => [database, policy]),
          shards: { ...mark.shards, ...Object.fromEntries(doubted.map(({ id }) => [id, factsOf(look.state, id)])) },
        };
    this.#candidate = null;
    await this.#noteChecked();
  }

  /** Moves the mark on to an earlier look whose writes have all come in by now. */
  async #moveOn(look: Look): Promise<void> {
    const { ingest, journal } = this.#options;
    const candidate = this.#candidate;
    if (candidate !== null && lostBetween(candidate.state, look.state)) this.#candidate = null;
    else if (candidate !== null && ingest.deliveredSince(candidate.atMs, this.#queueMax)) {
      this.#mark = checkedOf(candidate.state, this.#places);
      this.#candidate = look;
      // Until a snapshot holds what the journal lacks, nothing is told of as complete, nor gone on from at the next start.
      if (this.#lacksUntilMs === null) {
        await journal.heartbeat(candidate.atMicros);
        if (performance.now() - this.#checkedMs > checkedEveryMs) await this.#noteChecked();
      }
    }
    this.#candidate ??= look;
  }

  #noteLoss(mark: Checked, state: ServerState): void {
    const lost = Math.max(0, state.writeFailures + state.subWriteDrop - mark.writeFailures - mark.subWriteDrop);
    const isRestarted = state.started !== mark.started;
    this.counters.lost_writes_total += isRestarted ? 0 : lost;
    const why = isRestarted ? 'InfluxDB was restarted' : `InfluxDB did not forward ${lost} writes`;
    this.#options.logger.warn(`${why}: what changed is exported again`, { component: 'influxdb' });
  }

  async #noteChecked(): Promise<void> {
    if (this.#mark === null || this.#lacksUntilMs !== null) return;
    await this.#append(checkedItem(this.#mark));
    this.#checkedMs = performance.now();
  }

  /** Which type each field has, whenever one was made: by this a restore knows which of two that contradict was refused. */
  async #noteSchemas({ schemas }: ServerState): Promise<void> {
    const { server, signal } = this.#options;
    for (const [place, text] of schemas) {
      if (this.#schemas.get(place) === text) continue;
      const [db, rp] = JSON.parse(place) as [string, string];
      await this.#append(fieldsItem({ db, rp }, await readFieldTypes(server, { database: db, policy: rp }, signal)));
      this.#schemas.set(place, text);
    }
  }

  async #append(item: JournalItem): Promise<void> {
    const { journal, logger } = this.#options;
    if (item.body.length > frameBodyMax) {
      logger.warn(`a note of ${item.body.length} bytes is too long for the journal`, { component: 'influxdb' });
      return;
    }
    await journal.room();
    await journal.append([item]);
  }
}

function placesOf({ databases }: Definitions): Place[] {
  return databases.flatMap(({ name, policies }) => policies.map((policy) => ({ database: name, policy: policy.name })));
}

/** Whether its retention policy, as it is now, has let it go. */
function isExpired({ database, policy, endNs }: Shard, { databases }: Definitions): boolean {
  const found = databases.find(({ name }) => name === database)?.policies.find(({ name }) => name === policy);
  const keptMs = durationMs(found?.duration ?? '');
  return keptMs > 0 && Number(endNs / 1_000_000n) + keptMs <= Date.now() + clocksDifferMs;
}

function samePlace(a: Place, b: Place): boolean {
  return a.database === b.database && a.policy === b.policy;
}

function checkedOf({ started, writeFailures, subWriteDrop, shards }: ServerState, places: readonly Place[]): Checked {
  const subscribed = places.map(({ database, policy }): [string, string] => [database, policy]);
  return { started, writeFailures, subWriteDrop, shards, subscribed };
}

function factsOf({ shards }: ServerState, id: number): [number, number] {
  return shards[String(id)] ?? [0, 0];
}
