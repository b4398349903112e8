/** "Did you mean …": the nearest of the known words, by edits (insert, delete, replace, swap of neighbours). */

/** The nearest known word, or null when none is near enough to be a typing slip (a third of its length, at least 2 edits). */
export function nearestWord(word: string, known: Iterable<string>): string | null {
  let best: { word: string; edits: number } | null = null;
  for (const candidate of known) {
    const edits = editDistance(word.slice(0, 64).toLowerCase(), candidate.toLowerCase());
    if (
      edits <= Math.max(2, Math.floor(candidate.length / 3)) &&
      edits < candidate.length &&
      (!best || edits < best.edits)
    )
      best = { word: candidate, edits };
  }
  return best?.word ?? null;
}

/** Optimal string alignment distance. */
export function editDistance(a: string, b: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, column) => column);
  for (let row = 1; row <= a.length; row++) {
    const next = [row];
    for (let column = 1; column <= b.length; column++) {
      const same = a[row - 1] === b[column - 1];
      let edits = Math.min(
        (last[column] ?? 0) + 1,
        (next[column - 1] ?? 0) + 1,
        (last[column - 1] ?? 0) + (same ? 0 : 1),
      );
      const swapped = row > 1 && column > 1 && a[row - 1] === b[column - 2] && a[row - 2] === b[column - 1];
      if (swapped) edits = Math.min(edits, (beforeLast[column - 2] ?? 0) + 1);
      next.push(edits);
    }
    beforeLast = last;
    last = next;
  }
  return last[b.length] ?? 0;
}
