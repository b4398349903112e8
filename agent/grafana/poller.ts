/**
 * Looks at one organization of a Grafana and journals what changed since the look before. Grafana tells nobody of its
 * changes, and no list of it tells them all: so folders and data sources are asked one by one, and of each dashboard the
 * number of its newest version. All of them in each look, as long as that is done in time (pace.ts); else as many as are,
 * in turn (turns.ts). What the lists do tell, each look sees: objects that are new, gone, renamed or moved.
 *
 * What a look cannot see is never taken for deleted. An object counts as deleted only when no list shows it, it answers 404
 * by itself, and the look came to its end with the same organization as it began. A look that fails has journaled what it
 * had seen until then, and nothing else.
 */

import { transientError } from '../../core/errors/error.ts';
import { eachOf } from '../../core/grafana/each.ts';
import { deletedItem, objectItem, openFrame, organizationItem, versionItem } from '../../core/grafana/frames.ts';
import {
  contentBytes,
  type GrafanaObject,
  keyText,
  type ObjectKey,
  type ObjectType,
  objectTypes,
  sha256Of,
  typeNames,
} from '../../core/grafana/objects.ts';
import { type DashboardVersion, GrafanaReader, type Listed, lacksRules } from '../../core/grafana/reader.ts';
import type { GrafanaServer, Organization } from '../../core/grafana/server.ts';
import type { GrafanaState } from '../../core/grafana/state.ts';
import { frameBodyMax, type JournalItem } from '../../core/journal/frame.ts';
import type { JournalWriter } from '../../core/journal/writer.ts';
import type { Logger } from '../../core/logging/logger.ts';
import { atOnceMax, Pace } from './pace.ts';
import { type SavedMicros, Turns } from './turns.ts';

export interface PollerOptions {
  journal: Pick<JournalWriter, 'append' | 'room'>;
  /** What the journal holds; kept up with it. */
  state: GrafanaState;
  counters: GrafanaCounters;
  /** From one look to the next. */
  everyMs: number;
  logger: Logger;
  signal: AbortSignal;
}

export interface GrafanaCounters {
  looks_total: number;
  failed_looks_total: number;
  changes_total: number;
  deletions_total: number;
}

export interface LookReport {
  /** Objects that no frame can hold. */
  tooLarge: string[];
  /** This Grafana has alerting, and cannot list its rules: that came with 9.4. */
  lacksRules: boolean;
  /** All that was changed before this instant (µs since 1970) was seen; null: not all was asked yet. */
  seenMicros: number | null;
}

/** From one look to the next. */
interface Memory {
  /** What was last listed of each object whose content was looked at, by its key. */
  marks: Map<string, string>;
  /** What to call each object that no frame can hold, by its key. */
  tooLarge: Map<string, string>;
  turns: Turns;
  pace: Pace;
}

export class Poller {
  readonly #options: PollerOptions;
  readonly #memory: Memory;

  constructor(options: PollerOptions) {
    this.#options = options;
    this.#memory = { marks: new Map(), tooLarge: new Map(), turns: new Turns(), pace: new Pace(options.everyMs) };
  }

  /** Throws transient and configuration errors: then this look is not complete. */
  async look(server: GrafanaServer, serverVersion: string): Promise<LookReport> {
    const { signal } = this.#options;
    const organization = await server.organization(signal);
    await this.#noteOrganization({ ...organization, serverVersion });
    const reader = new GrafanaReader(server, { org: organization.org, version: serverVersion }, signal);
    const { limited } = server;
    try {
      return await new Look(this.#options, this.#memory, server, organization, reader).run();
    } finally {
      this.#notePace(server, server.limited > limited);
    }
  }

  #notePace(server: GrafanaServer, isLimited: boolean): void {
    const { pace } = this.#memory;
    if (isLimited && pace.most === atOnceMax)
      this.#options.logger.warn(`Grafana at ${server.url} limits how often it may be asked: it is asked more slowly`, {
        component: 'grafana',
      });
    pace.told(isLimited);
  }

  async #noteOrganization(meta: Organization & { serverVersion: string }): Promise<void> {
    const known = this.#options.state.organizations.get(meta.org);
    if (known?.name === meta.name && known.serverVersion === meta.serverVersion) return;
    await append(this.#options, organizationItem(meta));
  }
}

/** The state follows the journal, never the other way: what is not durable yet is not known. */
async function append({ journal, state, counters }: PollerOptions, item: JournalItem): Promise<void> {
  await journal.room();
  const end = await journal.append([item]);
  const frame = openFrame(item, `${end.file}:${end.offset}`);
  state.apply(frame, end);
  if (frame.kind === 'object') counters.changes_total += 1;
  if (frame.kind === 'deleted') counters.deletions_total += 1;
}

class Look {
  readonly #options: PollerOptions;
  readonly #memory: Memory;
  readonly #server: GrafanaServer;
  readonly #organization: Organization;
  readonly #reader: GrafanaReader;
  /** Keys of what is there, and of what a list at least knows of. */
  readonly #seen = new Set<string>();

  constructor(
    options: PollerOptions,
    memory: Memory,
    server: GrafanaServer,
    organization: Organization,
    reader: GrafanaReader,
  ) {
    this.#options = options;
    this.#memory = memory;
    this.#server = server;
    this.#organization = organization;
    this.#reader = reader;
  }

  async run(): Promise<LookReport> {
    const beganMs = performance.now();
    const beganMicros = nowMicros();
    const lists = new Map<ObjectType, readonly Listed[]>();
    const { turns, tooLarge, pace } = this.#memory;
    await eachOf(objectTypes, pace.most, async (type) => {
      const listed = await this.#reader.list(type);
      if (listed !== null) lists.set(type, listed);
    });
    lists.set('folder', this.#withReferenced(lists));
    const rest: Listed[] = [];
    for (const type of objectTypes) {
      const listed = lists.get(type) ?? [];
      const now = listed.filter((one) => !isAskedInTurn(one) || turns.isUrgent(one, this.#savedMicros));
      await eachOf(now, pace.most, (one) => this.#lookAt(one));
      const isNow = new Set(now);
      rest.push(...listed.filter((one) => !isNow.has(one)));
    }
    await this.#askInTurn(rest, beganMs);
    const gone = await this.#findGone(lists);
    if (gone.length > 0) await this.#recordGone(gone);
    for (const text of tooLarge.keys()) if (!this.#seen.has(text)) tooLarge.delete(text);
    const seenMicros = turns.seenThrough([...lists.values()].flat().filter(isAskedInTurn));
    return {
      tooLarge: [...tooLarge.values()],
      lacksRules: lacksRules(lists),
      seenMicros: seenMicros === null ? null : Math.min(seenMicros, beganMicros),
    };
  }

  /** As many as time allows; the others' turn comes with the next looks. */
  async #askInTurn(rest: readonly Listed[], beganMs: number): Promise<void> {
    const { pace, turns } = this.#memory;
    const atOnce = pace.atOnce(rest.length);
    const startMs = performance.now();
    const { limited } = this.#server;
    const endMs = startMs + pace.leftMs(startMs - beganMs);
    let asked = 0;
    await eachOf(turns.inOrder(rest, nowMicros(), this.#savedMicros), atOnce, async (one) => {
      if (performance.now() < endMs) {
        asked += 1;
        await this.#lookAt(one);
      } else this.#seen.add(keyText(one.key));
    });
    // What a limit makes it wait tells nothing of how fast it answers.
    if (this.#server.limited === limited) pace.measured(asked, atOnce, performance.now() - startMs);
  }

  readonly #savedMicros: SavedMicros = (key) => this.#options.state.get(key)?.meta.savedMicros ?? null;

  /** Folders that the search leaves out, but that something lies in. */
  #withReferenced(lists: ReadonlyMap<string, readonly Listed[]>): Listed[] {
    const { org } = this.#organization;
    const folders = new Map((lists.get('folder') ?? []).map((one) => [one.key.uid, one]));
    for (const { folderUid } of [...lists.values()].flat()) {
      if (folderUid === '' || folderUid === 'general' || folders.has(folderUid)) continue;
      const key = { org, type: 'folder' as const, uid: folderUid };
      folders.set(folderUid, { key, title: '', mark: null, object: null, folderUid: '' });
    }
    return [...folders.values()];
  }

  async #lookAt(listed: Listed): Promise<void> {
    this.#options.signal.throwIfAborted();
    if (isAskedInTurn(listed)) await this.#memory.turns.take(listed, nowMicros(), () => this.#ask(listed));
    else await this.#ask(listed);
  }

  async #ask(listed: Listed): Promise<void> {
    const { key, object } = listed;
    if (object !== null) return await this.#consider(object, null);
    if (key.type === 'dashboard') return await this.#askDashboard(listed);
    if (listed.mark !== null && this.#memory.marks.get(keyText(key)) === listed.mark) {
      this.#seen.add(keyText(key));
      return;
    }
    const found = await this.#reader.fetch(key);
    if (found === null) return;
    await this.#consider(found, null);
    if (listed.mark !== null) this.#memory.marks.set(keyText(key), listed.mark);
  }

  async #askDashboard({ key, title, folderUid }: Listed): Promise<void> {
    const newest = await this.#reader.newestVersion(key.uid);
    const mark = JSON.stringify([title, folderUid, newest?.version, newest?.savedMicros]);
    if (newest !== null && this.#memory.marks.get(keyText(key)) === mark) {
      this.#seen.add(keyText(key));
      return;
    }
    const found = await this.#reader.fetch(key);
    if (found === null) return;
    await this.#consider(found, newest);
    if (newest !== null && found.meta.version === newest.version) this.#memory.marks.set(keyText(key), mark);
  }

  /** Journals an object that is there, if that is new. */
  async #consider(found: GrafanaObject, newest: DashboardVersion | null): Promise<void> {
    const { state } = this.#options;
    const text = keyText(found.meta);
    this.#seen.add(text);
    const known = state.get(found.meta);
    const body = contentBytes(found.content);
    const isSame = known?.sha256 === sha256Of(body) && known.meta.provenance === found.meta.provenance;
    if (isSame && (found.meta.type !== 'dashboard' || known.meta.version === found.meta.version)) return;
    const object = found.meta.type === 'dashboard' ? await this.#withPast(found, newest) : found;
    if (!this.#fits(object, body)) return;
    await append(this.#options, objectItem(object.meta, body));
  }

  /** Journals the versions between the one that is known and this one; and finds what was said when this one was saved. */
  async #withPast(now: GrafanaObject, newest: DashboardVersion | null): Promise<GrafanaObject> {
    const { version } = now.meta;
    const since = this.#options.state.get(now.meta)?.meta.version ?? 0;
    if (version === null || version === since) return withMessage(now, newest);
    // A number that went back is another dashboard with the same uid.
    const from = since < version ? since : 0;
    if (newest?.version === version && version === from + 1) return withMessage(now, newest);
    const versions = await this.#reader.versions(now.meta.uid);
    for (const one of versions) {
      if (one.version <= from || one.version >= version) continue;
      const past = await this.#reader.fetchVersion(now, one);
      if (past === null) continue;
      const body = contentBytes(past.content);
      if (this.#fits(past, body)) await append(this.#options, versionItem(past.meta, body));
    }
    return withMessage(now, versions.find((one) => one.version === version) ?? newest);
  }

  #fits({ meta }: GrafanaObject, body: Buffer): boolean {
    const { tooLarge } = this.#memory;
    tooLarge.delete(keyText(meta));
    if (body.length <= frameBodyMax) return true;
    tooLarge.set(keyText(meta), `${typeNames[meta.type]} ${meta.title} (${meta.uid})`);
    return false;
  }

  /** What the journal knows, and no list showed: asked for one by one. */
  async #findGone(lists: ReadonlyMap<string, readonly Listed[]>): Promise<{ key: ObjectKey; title: string }[]> {
    const { state, signal } = this.#options;
    const missing = [...state.objects.values()].filter(({ meta }) => {
      const isHere = meta.org === this.#organization.org && lists.has(meta.type);
      return isHere && !this.#seen.has(keyText(meta));
    });
    const asked = await eachOf(missing, this.#memory.pace.most, async ({ meta: { org, type, uid, title } }) => {
      signal.throwIfAborted();
      const key = { org, type, uid };
      if (await this.#reader.isGone(key, title)) return [{ key, title }];
      // It is only left out of the list.
      const found = await this.#reader.fetch(key);
      if (found !== null) await this.#consider(found, null);
      return [];
    });
    return asked.flat();
  }

  async #recordGone(gone: readonly { key: ObjectKey; title: string }[]): Promise<void> {
    const { logger, signal } = this.#options;
    const { org, name } = this.#organization;
    const now = await this.#server.organization(signal);
    if (now.org !== org) throw anotherOrganization(this.#server.url, name, now.name);
    for (const { key, title } of gone) {
      await append(this.#options, deletedItem(key, title));
      this.#memory.marks.delete(keyText(key));
      logger.info(`${typeNames[key.type]} ${title} (${key.uid}) was deleted`, { component: 'grafana', org });
    }
  }
}

/** No list tells whether it changed. */
function isAskedInTurn({ object, mark }: Listed): boolean {
  return object === null && mark === null;
}

function nowMicros(): number {
  return Date.now() * 1000;
}

function withMessage(object: GrafanaObject, saved: DashboardVersion | null): GrafanaObject {
  if (saved === null || saved.version !== object.meta.version) return object;
  const { message, author, savedMicros } = saved;
  const { meta } = object;
  const more = { message, author: author || meta.author, savedMicros: savedMicros || meta.savedMicros };
  return { ...object, meta: { ...meta, ...more } };
}

function anotherOrganization(url: string, before: string, now: string) {
  return transientError(
    'QZ4953',
    `Grafana at ${url} answered as ${before} when a look began and as ${now} when it ended.`,
    'Nothing of what seemed to be deleted was believed; the next look begins anew. See whether the token or the server was replaced.',
  );
}
