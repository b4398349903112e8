/**
 * Whose turn it is to be asked. What no list tells (what a dashboard holds, who may see a folder) has to be asked one by one,
 * and of thousands not all may fit into one look: then those come first that are most likely to have changed, and of the
 * others those that were asked longest ago.
 */
import { keyText, type ObjectKey } from '../../core/grafana/objects.ts';
import type { Listed } from '../../core/grafana/reader.ts';

/** Whoever saves a dashboard is likely to do so again soon. */
const recentMicros = 2 * 3600 * 1_000_000;
/** So that the others have their turn also when all were saved just now. */
const recentMax = 200;

interface Turn {
  /** What lists told of it when it was asked. */
  told: string;
  askedMicros: number;
  hasFailed: boolean;
  /** Just before it was asked last of those times that it was answered; 0: never. */
  seenMicros: number;
}

/** When an object was saved, as far as the journal knows (0: Grafana does not tell); null: the journal does not know it. */
export type SavedMicros = (key: ObjectKey) => number | null;

export class Turns {
  /** By `keyText`. */
  readonly #turns = new Map<string, Turn>();

  /** Asks, by `work`. What fails is asked last the next time: it keeps nobody else from being asked. */
  async take(listed: Listed, nowMicros: number, work: () => Promise<void>): Promise<void> {
    const text = keyText(listed.key);
    const seenMicros = this.#turns.get(text)?.seenMicros ?? 0;
    const turn = { told: told(listed), askedMicros: nowMicros, hasFailed: true, seenMicros };
    this.#turns.set(text, turn);
    await work();
    this.#turns.set(text, { ...turn, hasFailed: false, seenMicros: nowMicros });
  }

  /** A list shows that it is new, or that its title or its place is another than when it was asked. */
  isUrgent(listed: Listed, savedMicros: SavedMicros): boolean {
    const turn = this.#turns.get(keyText(listed.key));
    if (turn === undefined) return savedMicros(listed.key) === null;
    return !turn.hasFailed && turn.told !== told(listed);
  }

  /** All of them, in the order in which they should be asked. */
  inOrder(all: readonly Listed[], nowMicros: number, savedMicros: SavedMicros): Listed[] {
    const ranked = all
      .map((listed) => {
        const { askedMicros = 0, hasFailed = false } = this.#turns.get(keyText(listed.key)) ?? {};
        return { listed, askedMicros, hasFailed, savedMicros: savedMicros(listed.key) ?? 0 };
      })
      .sort((a, b) => Number(a.hasFailed) - Number(b.hasFailed) || a.askedMicros - b.askedMicros);
    const recent = ranked
      .filter((one) => !one.hasFailed && one.savedMicros > nowMicros - recentMicros)
      .sort((a, b) => b.savedMicros - a.savedMicros)
      .slice(0, recentMax);
    const isRecent = new Set(recent);
    return [...recent, ...ranked.filter((one) => !isRecent.has(one))].map(({ listed }) => listed);
  }

  /** What was changed before this instant was seen, of all these; null: one was never answered. Forgets everything else. */
  seenThrough(all: readonly Listed[]): number | null {
    const texts = new Set(all.map(({ key }) => keyText(key)));
    for (const text of this.#turns.keys()) if (!texts.has(text)) this.#turns.delete(text);
    let oldest = Number.POSITIVE_INFINITY;
    for (const text of texts) oldest = Math.min(oldest, this.#turns.get(text)?.seenMicros ?? 0);
    return oldest === 0 ? null : oldest;
  }
}

function told({ title, folderUid }: Listed): string {
  return JSON.stringify([title, folderUid]);
}
