/**
 * Reads a data file of mydumper as it passes: which columns its INSERTs name, and how many rows it holds. Escaping leaves no
 * line break inside of a value, so a line is a row, the head of an INSERT, a setting, or an end; anything else is refused.
 *
 *   INSERT INTO `t` (`a`,`b`) VALUES        up to 0.11 the first row is on the next line, later on this one
 *   (1,"x"),                                0.10: the comma behind the row
 *   ,(2,"y")                                later: before it
 *   ;
 */

/** 4096 columns of 64 characters of 4 bytes, quoted. */
const headBytesMax = 2 * 1024 * 1024;
const headPattern = /^INSERT INTO `([^`]+)` \(((?:`[^`]+`,?)+)\) VALUES ?/;
const [lineBreak, openParenthesis, comma, semicolon] = [0x0a, 0x28, 0x2c, 0x3b];
/** `I` of INSERT; comments (`/`, `-`), and `S` of SET. */
const [headStart, ...settingStarts] = [0x49, 0x2f, 0x2d, 0x53];

export class DataScanner {
  rows = 0;
  readonly #table: string;
  readonly #columns: ReadonlySet<string>;
  #problem: string | null = null;
  /** The beginning of an INSERT whose list of columns has not ended yet. */
  #head: Buffer | null = null;
  /** What a line that goes on into the next part is; null at its start. */
  #inLine = false;
  #tail: Buffer = Buffer.alloc(0);
  #lastList = '';

  /** `columns`: exactly those that every INSERT must name. */
  constructor(table: string, columns: ReadonlySet<string>) {
    this.#table = table;
    this.#columns = columns;
  }

  feed(part: Buffer): void {
    if (part.length > 0) this.#tail = Buffer.concat([this.#tail, part.subarray(-2)]).subarray(-2);
    let at = 0;
    while (at < part.length && this.#problem === null) {
      if (this.#head !== null) at = this.#goOnWithHead(part, at);
      else {
        if (!this.#inLine) this.#beginLine(part[at] ?? 0);
        if (this.#head !== null) continue;
        const end = part.indexOf(lineBreak, at);
        this.#inLine = end < 0;
        at = end < 0 ? part.length : end + 1;
      }
    }
  }

  /** What is wrong with the file; null: nothing. */
  end(): string | null {
    if (this.#problem !== null) return this.#problem;
    if (this.#head !== null || this.#inLine || this.#tail.toString('latin1') !== ';\n') return 'it breaks off';
    return null;
  }

  #beginLine(first: number): void {
    if (first === openParenthesis || first === comma) this.rows += 1;
    else if (first === headStart) this.#head = Buffer.alloc(0);
    else if (first !== lineBreak && first !== semicolon && !settingStarts.includes(first)) {
      this.#problem = `it holds a line that begins with byte ${first}`;
    }
  }

  /** Collects until the list of columns has ended; what follows it in the line is its first row. */
  #goOnWithHead(part: Buffer, at: number): number {
    const before = this.#head?.length ?? 0;
    const more = part.subarray(at, at + headBytesMax - before);
    const head = Buffer.concat([this.#head ?? Buffer.alloc(0), more]);
    const closing = head.indexOf(') VALUES');
    // One byte more: a row may follow on the same line.
    const known = closing < 0 ? -1 : closing + ') VALUES'.length + 2;
    if (known < 0 || head.length < known) {
      if (head.length >= headBytesMax) this.#problem = 'an INSERT names more columns than a table can have';
      this.#head = head;
      return at + more.length;
    }
    const text = head.subarray(0, known).toString('utf8');
    const match = headPattern.exec(text);
    if (match === null) this.#problem = 'it holds an INSERT that is not understood';
    else {
      this.#checkColumns(match[1] ?? '', match[2] ?? '');
      if (text[match[0].length] === '(') this.rows += 1;
    }
    this.#head = null;
    // Back to just behind VALUES, where the line may end at once; unless that byte came with an earlier part.
    const next = closing + ') VALUES'.length;
    this.#inLine = before <= next || head[next] !== lineBreak;
    return at + Math.max(0, next - before);
  }

  #checkColumns(table: string, list: string): void {
    if (table !== this.#table) this.#problem = `it holds rows of ${table}`;
    else if (list !== this.#lastList) {
      const named = new Set(list.slice(1, -1).split('`,`'));
      const missing = [...this.#columns].filter((column) => !named.has(column));
      const strange = [...named].filter((column) => !this.#columns.has(column));
      if (missing.length > 0) this.#problem = `its INSERTs leave out ${missing.slice(0, 5).join(', ')}`;
      else if (strange.length > 0) this.#problem = `its INSERTs name ${strange.slice(0, 5).join(', ')}`;
      this.#lastList = list;
    }
  }
}
