/** The texts that stand after an error code in a source file: a small reader of calls and object literals, no parser. */

/** Sentence and hint: the literals within the two arguments (or properties) after `from`, run-time parts as `…`. */
export function textsAfter(source: string, from: number): [sentence: string, hint: string] {
  const [sentence = '', hint = ''] = nextArguments(source, from, 2).map((argument) => textOf(source, argument));
  return [sentence, hint];
}

/** Source text of the next arguments of the call (or properties of the object) whose middle is at `from`. */
function nextArguments(source: string, from: number, count: number): string[] {
  const found: string[] = [];
  let start = -1;
  for (let at = from; at < source.length && at < from + 4000; ) {
    const character = source[at] ?? '';
    const end = skip(source, at);
    const closing = ')]};'.includes(character);
    if (character === ',' || character === ';' || closing) {
      const argument = start < 0 ? '' : source.slice(start, at).trim();
      // An exit code or the like between the code and its texts is none of them.
      if (argument !== '' && !/^\d+$/.test(argument)) found.push(argument);
      start = at + 1;
      if (closing || character === ';' || found.length === count) break;
    }
    at = end;
  }
  return found;
}

/** One past the literal, bracket or character at `at`. */
function skip(source: string, at: number): number {
  const character = source[at] ?? '';
  if (source.startsWith('//', at)) return endOf(source, '\n', at);
  if (character === "'" || character === '"') return endOfString(source, at);
  if (character === '`') return endOfTemplate(source, at);
  if ('([{'.includes(character)) return endOfBracket(source, at);
  return at + 1;
}

function endOf(source: string, what: string, at: number): number {
  const found = source.indexOf(what, at);
  return found < 0 ? source.length : found + what.length;
}

function endOfString(source: string, at: number): number {
  let next = at + 1;
  while (next < source.length && source[next] !== source[at]) next += source[next] === '\\' ? 2 : 1;
  return next + 1;
}

function endOfTemplate(source: string, at: number): number {
  let next = at + 1;
  while (next < source.length && source[next] !== '`') {
    if (source.startsWith('${', next)) next = endOfBracket(source, next + 1);
    else next += source[next] === '\\' ? 2 : 1;
  }
  return next + 1;
}

function endOfBracket(source: string, at: number): number {
  let next = at + 1;
  while (next < source.length && !')]}'.includes(source[next] ?? '')) next = skip(source, next);
  return next + 1;
}

function textOf(source: string, argument: string): string {
  const expression = argument.replace(/^[A-Za-z]+:\s*/, '');
  const name = /^[A-Za-z][A-Za-z0-9]*$/.exec(expression)?.[0];
  const declared = name === undefined ? null : new RegExp(`\\bconst ${name} =`).exec(source);
  if (declared) return literals(nextArguments(`,${source.slice(declared.index + declared[0].length)}`, 0, 1)[0] ?? '');
  return literals(expression);
}

/** All literals of an expression: `+` joins them, what chooses between them (`? :`) puts a slash. */
function literals(expression: string): string {
  let text = '';
  let between = '';
  for (let at = 0; at < expression.length; ) {
    const end = skip(expression, at);
    const piece = expression.slice(at, end);
    if (/^['"`]/.test(piece)) {
      const shown = shownLiteral(piece);
      text += text === '' || between.includes('+') ? shown : shown === '' ? '' : ` / ${shown}`;
      between = '';
    } else if ('([{'.includes(piece.charAt(0))) {
      const inner = literals(piece.slice(1, -1));
      if (inner !== '…' && inner !== '') text += text === '' ? inner : ` / ${inner}`;
    } else between += piece;
    at = end;
  }
  if (text === '') return expression === "''" ? '' : '…';
  return text
    .replace(/\s+/g, ' ')
    .replace(/\|/g, '\\|')
    .replace(/…(?:\s*…)+/g, '…')
    .trim();
}

function shownLiteral(literal: string): string {
  let out = '';
  for (let at = 1; at < literal.length - 1; ) {
    if (literal[0] === '`' && literal.startsWith('${', at)) {
      out += '…';
      at = endOfBracket(literal, at + 1);
    } else if (literal[at] === '\\') {
      out += literal[at + 1] === 'n' ? ' ' : (literal[at + 1] ?? '');
      at += 2;
    } else {
      out += literal[at];
      at += 1;
    }
  }
  return out;
}
