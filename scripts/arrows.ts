/**
 * The import arrows as a check: bytes and codecs → stores → histories and plans → programs; programs never import one
 * another; one folder owns each third-party client. Type-only imports count. Our own scan, because import checkers of
 * the field lean on the JavaScript API of TypeScript, which version 7 no longer has.
 *
 *   node scripts/arrows.ts [FOLDER]   prints every wrong arrow; exit 1 when there is one
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Folders below core/, lowest first: a folder may import its own row and those above it in this list. */
const layers = [
  ['errors', 'bytes', 'logging'],
  ['progress', 'config', 'binlog'],
  ['chain', 'mysql'],
  ['log', 'archive'],
  ['chunks', 'history'],
  ['snapshot', 'stream'],
  ['restore', 'live', 'journal'],
  ['influxdb', 'grafana', 'verify'],
];
const programs = ['agent', 'shipper', 'standby', 'restore-tool'];
const users = ['cli', 'test', 'bench', 'scripts'];
const folders = ['core', ...programs, ...users];
/** Third-party clients and the only places that may import them. */
const owners: Record<string, RegExp> = {
  mysql2: /^core\/mysql\/|^restore-tool\/history\/zongji/,
  '@vlasky/zongji': /^restore-tool\/history\/zongji/,
  winston: /^core\/logging\//,
  'p-retry': /^core\/errors\/retry\.ts$/,
  kafkajs: /^core\/log\/kafka\/kafkajs-brokers\.ts$|^test\/made\/kafka-admin\.ts$/,
  '@aws-sdk/client-s3': /^core\/archive\/s3-client\.ts$/,
  '@influxdata/influxdb-client': /^agent\/metrics\/influxdb-client\.ts$/,
  yaml: /^core\/config\/|^test\//,
  commander: /^cli\/|^test\/lab\/|^bench\//,
};

export interface Arrow {
  /** Path of the importing file, from the root. */
  from: string;
  line: number;
  /** Path of the imported file from the root; or a package's name; or `node:…`. */
  to: string;
  isFile: boolean;
}

/** Every static, dynamic and type import of one source text. A line that begins an import but cannot be read throws. */
export function importsOf(text: string, path: string): Arrow[] {
  const names = `[\\w$\\s{},*]+?`;
  const statement = new RegExp(
    `^import\\s+(?:${names}\\sfrom\\s*)?(['"])(?<a>[^'"]+)\\1` +
      `|^export\\s+(?:type\\s+)?(?:\\*(?:\\s+as\\s+\\w+)?|\\{[^}]*\\})\\s*from\\s*(['"])(?<b>[^'"]+)\\3` +
      `|\\bimport\\(\\s*(['"])(?<c>[^'"]+)\\5`,
    'gm',
  );
  const arrows: Arrow[] = [];
  const lines = new Set<number>();
  const isQuoted = quotedParts(text);
  for (const match of text.matchAll(statement)) {
    const { a, b, c } = match.groups ?? {};
    const specifier = a ?? b ?? c ?? '';
    const line = text.slice(0, match.index).split('\n').length;
    lines.add(line);
    if (isQuoted(match.index)) continue;
    const isFile = specifier.startsWith('.');
    arrows.push({
      from: path,
      line,
      to: isFile ? normalize(join(dirname(path), specifier)) : packageOf(specifier),
      isFile,
    });
  }
  let at = 0;
  text.split('\n').forEach((content, index) => {
    const begin = at;
    at += content.length + 1;
    if (isQuoted(begin)) return;
    if (/^import\b(?!\.meta)/.test(content) && !lines.has(index + 1)) {
      throw new Error(`${path}:${index + 1} begins an import that cannot be read: ${content}`);
    }
  });
  return arrows;
}

/** Whether an offset lies inside a string, as the text of a program that a test writes down does, or a comment. */
function quotedParts(text: string): (offset: number) => boolean {
  const passedOver =
    /\/\/.*|\/\*[\s\S]*?\*\/|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|(?<=[(,=:[!&|?{};]\s*|return )\/(?![*/])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n[])+\/|[`{}]/g;
  const inTemplate = /\\[\s\S]|\$\{|`/g;
  const spans: [number, number][] = [];
  /** For each template begun and not ended: how many braces are open in its present `${…}`. */
  const braces: number[] = [];
  const skipTemplate = (from: number): number => {
    inTemplate.lastIndex = from;
    for (let match = inTemplate.exec(text); match; match = inTemplate.exec(text)) {
      if (match[0].startsWith('\\')) continue;
      spans.push([from, match.index]);
      if (match[0] === '`') braces.pop();
      return inTemplate.lastIndex;
    }
    return text.length;
  };
  for (let match = passedOver.exec(text); match; match = passedOver.exec(text)) {
    const open = braces.at(-1);
    if (match[0].length > 1) spans.push([match.index, passedOver.lastIndex]);
    if (match[0] === '`') {
      braces.push(0);
      passedOver.lastIndex = skipTemplate(passedOver.lastIndex);
    } else if (match[0] === '{' && open !== undefined) braces[braces.length - 1] = open + 1;
    else if (match[0] === '}' && open === 0) passedOver.lastIndex = skipTemplate(passedOver.lastIndex);
    else if (match[0] === '}' && open !== undefined) braces[braces.length - 1] = open - 1;
  }
  return (offset) => spans.some(([begin, end]) => begin <= offset && offset < end);
}

function packageOf(specifier: string): string {
  if (specifier.startsWith('node:')) return specifier;
  return specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');
}

/** What is wrong with one arrow; null when it may be. */
export function judge(arrow: Arrow): string | null {
  const { from, to } = arrow;
  if (!arrow.isFile) {
    const owner = owners[to];
    return owner && !owner.test(from) ? `${to} is imported only by ${owner.source}` : null;
  }
  const [fromTop = '', fromPart = ''] = from.split('/');
  const [toTop = '', toPart = ''] = to.split('/');
  if (fromTop === 'core' && toTop !== 'core') return 'core knows no program';
  if (programs.includes(fromTop) && (users.includes(toTop) || (programs.includes(toTop) && toTop !== fromTop))) {
    return `${fromTop} stands alone: it imports core and itself`;
  }
  if (fromTop === 'cli' && ['test', 'bench', 'scripts'].includes(toTop)) return 'cli imports only programs and core';
  if (fromTop !== 'core') return null;
  const [fromDepth, toDepth] = [depthOf(fromPart), depthOf(toPart)];
  if (fromDepth < 0 || toDepth < 0) return `core/${fromDepth < 0 ? fromPart : toPart} has no place in the layers`;
  return toDepth > fromDepth ? `core/${fromPart} is below core/${toPart}` : null;
}

function depthOf(part: string): number {
  return layers.findIndex((layer) => layer.includes(part));
}

/** One path for each circle of files, each beginning at its first file in alphabetical order. */
export function circles(arrows: readonly Arrow[]): string[][] {
  const targets = new Map<string, string[]>();
  for (const { from, to, isFile } of arrows) if (isFile) targets.set(from, [...(targets.get(from) ?? []), to]);
  const found = new Map<string, string[]>();
  const done = new Set<string>();
  const path: string[] = [];
  const visit = (file: string): void => {
    const at = path.indexOf(file);
    if (at >= 0) {
      const circle = path.slice(at);
      found.set([...circle].sort().join(' '), circle);
      return;
    }
    if (done.has(file)) return;
    path.push(file);
    for (const to of targets.get(file) ?? []) visit(to);
    path.pop();
    done.add(file);
  };
  for (const file of [...targets.keys()].sort()) visit(file);
  return [...found.values()];
}

export interface Verdict {
  files: number;
  arrows: number;
  /** One line each. */
  wrong: string[];
}

/** Reads all sources below `root` and judges every arrow between them. */
export function checkArrows(root: string): Verdict {
  const files = folders.flatMap((folder) => sourcesBelow(root, folder));
  const known = new Set(files);
  const declared = declaredPackages(root);
  const arrows = files.flatMap((file) => importsOf(readFileSync(join(root, file), 'utf8'), file));
  const wrong: string[] = [];
  for (const arrow of arrows) {
    const place = `${arrow.from}:${arrow.line}`;
    const reason = judge(arrow);
    if (reason) wrong.push(`${place} → ${arrow.to}: ${reason}`);
    if (arrow.isFile && !known.has(arrow.to)) wrong.push(`${place} → ${arrow.to}: there is no such file`);
    if (!arrow.isFile && !arrow.to.startsWith('node:') && !declared(arrow)) {
      wrong.push(`${place} → ${arrow.to}: not in package.json’s dependencies`);
    }
  }
  wrong.push(...circles(arrows).map((circle) => `a circle: ${[...circle, circle[0]].join(' → ')}`));
  return { files: files.length, arrows: arrows.length, wrong };
}

/** What is installed with the package may be imported anywhere; development tools only by what is not shipped. */
function declaredPackages(root: string): (arrow: Arrow) => boolean {
  const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Record<
    string,
    Record<string, string>
  >;
  const shipped = new Set(Object.keys(manifest.dependencies ?? {}));
  const tools = new Set(Object.keys(manifest.devDependencies ?? {}));
  return ({ from, to }) => shipped.has(to) || (/^(test|bench|scripts)\//.test(from) && tools.has(to));
}

function sourcesBelow(root: string, folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /\.[cm]?[jt]s$/.test(entry.name))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))
    .sort();
}

if (import.meta.main) {
  const root = process.argv[2] ?? dirname(dirname(fileURLToPath(import.meta.url)));
  const { files, arrows, wrong } = checkArrows(root);
  for (const line of wrong) process.stderr.write(`${line}\n`);
  process.stderr.write(`arrows: ${files} files, ${arrows} imports, ${wrong.length} wrong\n`);
  process.exitCode = wrong.length === 0 ? 0 : 1;
}
