/** Flat, sorted lists of half-open intervals: start, end, start, end … None empty, none touching the next. All linear or better. */

/** Index of the first interval (even) that ends at or after `bound`; the list's length when none does. */
function firstEndingAtOrAfter(list: readonly number[], bound: number): number {
  let low = 0;
  let high = list.length / 2;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((list[middle * 2 + 1] ?? 0) < bound) low = middle + 1;
    else high = middle;
  }
  return low * 2;
}

export function isInside(list: readonly number[], number: number): boolean {
  const index = firstEndingAtOrAfter(list, number + 1);
  return index < list.length && (list[index] ?? 0) <= number;
}

/** Whether every interval of `parts` lies in one of `list`. Few parts cost little, however long the list. */
export function isWithin(parts: readonly number[], list: readonly number[]): boolean {
  for (let index = 0; index < parts.length; index += 2) {
    const [start, end] = [parts[index] ?? 0, parts[index + 1] ?? 0];
    const at = firstEndingAtOrAfter(list, end);
    if (at >= list.length || (list[at] ?? 0) > start) return false;
  }
  return true;
}

/** Merge [start, end) into the list, in place, with whatever it touches. */
export function insert(list: number[], start: number, end: number): void {
  const from = firstEndingAtOrAfter(list, start);
  let to = from;
  let mergedStart = start;
  let mergedEnd = end;
  while (to < list.length && (list[to] ?? 0) <= end) {
    mergedStart = Math.min(mergedStart, list[to] ?? mergedStart);
    mergedEnd = Math.max(mergedEnd, list[to + 1] ?? mergedEnd);
    to += 2;
  }
  list.splice(from, to - from, mergedStart, mergedEnd);
}

export function union(ours: readonly number[], theirs: readonly number[]): number[] {
  const result: number[] = [];
  let a = 0;
  let b = 0;
  while (a < ours.length || b < theirs.length) {
    const fromOurs = b >= theirs.length || (a < ours.length && (ours[a] ?? 0) <= (theirs[b] ?? 0));
    const start = (fromOurs ? ours[a] : theirs[b]) ?? 0;
    const end = (fromOurs ? ours[a + 1] : theirs[b + 1]) ?? 0;
    if (fromOurs) a += 2;
    else b += 2;
    const tail = result.length - 1;
    if (tail > 0 && start <= (result[tail] ?? 0)) result[tail] = Math.max(result[tail] ?? 0, end);
    else result.push(start, end);
  }
  return result;
}

export function difference(ours: readonly number[], theirs: readonly number[]): number[] {
  const result: number[] = [];
  let b = 0;
  for (let a = 0; a < ours.length; a += 2) {
    let start = ours[a] ?? 0;
    const end = ours[a + 1] ?? 0;
    while (b < theirs.length && (theirs[b + 1] ?? 0) <= start) b += 2;
    // An interval of theirs may reach into our next one: walk on with a cursor of our own.
    for (let cut = b; cut < theirs.length && (theirs[cut] ?? 0) < end; cut += 2) {
      if (start < (theirs[cut] ?? 0)) result.push(start, theirs[cut] ?? 0);
      start = Math.max(start, theirs[cut + 1] ?? 0);
    }
    if (start < end) result.push(start, end);
  }
  return result;
}

export function intersection(ours: readonly number[], theirs: readonly number[]): number[] {
  const result: number[] = [];
  let a = 0;
  let b = 0;
  while (a < ours.length && b < theirs.length) {
    const ourEnd = ours[a + 1] ?? 0;
    const theirEnd = theirs[b + 1] ?? 0;
    const start = Math.max(ours[a] ?? 0, theirs[b] ?? 0);
    const end = Math.min(ourEnd, theirEnd);
    if (start < end) result.push(start, end);
    if (ourEnd <= theirEnd) a += 2;
    else b += 2;
  }
  return result;
}
