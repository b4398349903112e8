/**
 * `node scripts/errors.ts [--check]` writes ops/errors.md: every QZ code of the sources with its sentence and its hint,
 * as they stand there (what is filled in at run time is shown as …). `--check` only says which codes differ.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { textsAfter } from './code-texts.ts';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const folders = ['agent', 'bench', 'bin', 'cli', 'core', 'restore-tool', 'scripts', 'shipper', 'standby', 'test/lab'];
const target = join(root, 'ops', 'errors.md');

const kinds: Record<string, string> = {
  '2': 'Usage, configuration, credentials or server settings (exit 2): nothing was touched',
  '3': 'Data integrity (exit 3): stopped, because going on would lose or lie',
  '4': 'A passing fault (exit 4 once its deadline is over); in `status` and alarms: needs attention',
};
const areas = [
  'command line and configuration',
  'MySQL connection and server settings',
  'capture and binlog',
  'chain and log',
  'archive',
  'snapshot',
  'restore',
  'stream server',
  'set-up and lab',
  'other',
];

/** Texts that are put together at run time from more than their call shows. */
const byHand: Record<string, { sentence?: string; hint?: string }> = {
  QZ2001: { hint: 'The nearest verb, if one is near; `qazyna --help` shows all.' },
  QZ2002: { hint: 'The nearest option, if one is near; `qazyna VERB --help` shows all.' },
  QZ2019: {
    sentence:
      'Keys of the configuration contradict one another: folders inside one another, no archive, no scratch folder for clone, an acknowledgement that would not outlive the host.',
    hint: 'The hint names the key to change.',
  },
  QZ2024: { sentence: 'The secret file … may be read by everybody on this host.', hint: 'chmod 600 it.' },
  QZ3708: { sentence: 'A replica of the stream server asked for a file or position that this history does not have.' },
  QZ4508: { sentence: 'A snapshot failed, or is missing in an archive; the alarm says why.' },
};

export interface ErrorEntry {
  code: string;
  sentence: string;
  hint: string;
  file: string;
}

/** Every code in the sources with the texts at its first place that has some, ordered by code. */
export function errorsInSources(): ErrorEntry[] {
  const found = new Map<string, ErrorEntry>();
  for (const file of folders.flatMap((folder) => sourceFiles(folder))) {
    const source = readFileSync(join(root, file), 'utf8');
    for (const match of source.matchAll(/(['"`])(QZ[1-9]\d{3})(?:\1|: )/g)) {
      const code = match[2] ?? '';
      const [sentence, hint] = match[0].endsWith(': ')
        ? [firstLine(source.slice(match.index + match[0].length)), '']
        : textsAfter(source, match.index + match[0].length);
      const present = found.get(code);
      if (!present || (present.sentence === '' && sentence !== '')) found.set(code, { code, sentence, hint, file });
    }
  }
  return [...found.values()]
    .map((entry) => ({ ...entry, ...byHand[entry.code] }))
    .sort((a, b) => (a.code < b.code ? -1 : 1));
}

/** Codes that ops/errors.md has a row for. */
export function documentedCodes(): string[] {
  return [...readFileSync(target, 'utf8').matchAll(/^\| (QZ\d{4}) \|/gm)].map((match) => match[1] ?? '');
}

function sourceFiles(folder: string): string[] {
  return readdirSync(join(root, folder), { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && /\.(ts|mjs|cjs)$|^[a-z]+$/.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name).slice(root.length + 1))
    .filter((file) => !file.startsWith('scripts/errors.'))
    .sort();
}

/** For a code written inside a message. */
function firstLine(text: string): string {
  return (text.split(/\n|\\n/)[0] ?? '').replace(/\$\{[^}]*\}/g, '…');
}

function markdown(entries: readonly ErrorEntry[]): string {
  const lines = [
    '# Error codes',
    '',
    'Every message of qazyna carries one of these codes; with `--json` it stands in `error.code`. The first digit is the exit code, the second the area.',
    'This file is written from the sources by `node scripts/errors.ts`; … stands for what is filled in (a name, a position, a GTID). Errors without a code are bugs (exit 1): please report them.',
  ];
  for (const [digit, kind] of Object.entries(kinds)) {
    for (const [area, name] of areas.entries()) {
      const rows = entries.filter(({ code }) => code.startsWith(`QZ${digit}${area}`));
      if (rows.length === 0) continue;
      lines.push(
        '',
        `## QZ${digit}${area}xx: ${name}`,
        '',
        `${kind}.`,
        '',
        '| code | what it says | what to do | said by |',
        '| --- | --- | --- | --- |',
      );
      lines.push(
        ...rows.map(
          ({ code, sentence, hint, file }) =>
            `| ${code} | ${sentence} | ${hint === '' ? 'The message says it.' : hint} | \`${file}\` |`,
        ),
      );
    }
  }
  return `${lines.join('\n')}\n`;
}

if (import.meta.main) {
  const entries = errorsInSources();
  if (process.argv.includes('--check')) {
    const [used, documented] = [new Set(entries.map(({ code }) => code)), new Set(documentedCodes())];
    const differences = [
      ...[...used].filter((code) => !documented.has(code)).map((code) => `${code} is not in ops/errors.md`),
      ...[...documented].filter((code) => !used.has(code)).map((code) => `${code} is in ops/errors.md only`),
    ];
    for (const line of differences) process.stderr.write(`${line}\n`);
    process.exitCode = differences.length === 0 ? 0 : 1;
  } else writeFileSync(target, markdown(entries));
}
