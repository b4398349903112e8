/** What README and its neighbours say, held against the code as far as a machine can. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from '@jest/globals';
import { createProgram } from '../../cli/program.ts';
import { parseConfig } from '../../core/config/config.ts';
import { configExample } from '../../core/config/example.ts';
import { parseInstant } from '../../core/history/instant.ts';

type Command = ReturnType<typeof createProgram>;

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const documents = ['README.md', 'ARCHITECTURE.md', 'CONTRIBUTING.md', 'CHANGELOG.md'];
const read = (name: string) => readFileSync(join(root, name), 'utf8');

function program(): Command {
  return createProgram({
    io: { stdout: process.stdout, stderr: process.stderr, environment: {}, signal: new AbortController().signal },
    finish: () => {},
  });
}

describe('the documents', () => {
  test('every relative link leads to a file', () => {
    for (const name of documents) {
      for (const [, target = ''] of read(name).matchAll(/\]\(([^)#]+)\)/g)) {
        if (!target.startsWith('http'))
          expect([name, target, existsSync(join(root, target))]).toEqual([name, target, true]);
      }
    }
  });

  test('every path in code quotes exists', () => {
    const known = new Set(readdirSync(root));
    for (const name of documents) {
      for (const [, path = ''] of read(name).matchAll(/`([a-z][a-z-]*\/[A-Za-z0-9./_-]*)`/g)) {
        const first = path.split('/')[0] ?? '';
        if (known.has(first)) expect([name, path, existsSync(join(root, path))]).toEqual([name, path, true]);
      }
    }
  });

  test('every npm script that is named exists', () => {
    const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };
    for (const name of documents) {
      for (const [, script = ''] of read(name).matchAll(/npm run ([a-z]+)/g))
        expect(Object.keys(scripts)).toContain(script);
    }
  });

  test('the configuration in the README is accepted, and every example line of qazyna is understood', async () => {
    const readme = read('README.md');
    const yaml = /```yaml\n([\s\S]*?)```/.exec(readme)?.[1] ?? '';
    expect(parseConfig('README.md', yaml).archives).toHaveLength(2);
    const lines = [...readme.matchAll(/^\s*(?:sudo )?qazyna ([a-z].*)$/gm)].map((match) => match[1] ?? '');
    const inline = [...readme.matchAll(/`qazyna ([a-z][^`]*)`/g)].map((match) => match[1] ?? '');
    expect(lines.length + inline.length).toBeGreaterThan(8);
    for (const line of [...lines, ...inline]) {
      const words = [...line.replace(/#.*$/, '').matchAll(/"([^"]*)"|(\S+)/g)].map(
        (match) => match[1] ?? match[2] ?? '',
      );
      const ran: string[] = [];
      const parsed = program();
      const silence = (command: Command) => {
        if (command.commands.length === 0 || ['restore', 'history'].includes(command.name()))
          command.action((...given: unknown[]) => void ran.push(JSON.stringify(given.at(-2))));
        for (const child of command.commands) silence(child);
      };
      silence(parsed);
      await parsed.parseAsync(words, { from: 'user' });
      expect([line, ran.length]).toEqual([line, 1]);
      const to = words[words.indexOf('--to') + 1];
      if (words.includes('--to') && to !== undefined) parseInstant(to);
    }
  });

  test('every verb of the program is in the README, and none beside them', () => {
    const table = /## Every verb[\s\S]*?\n\n\| verb[\s\S]*?\n\n/.exec(read('README.md'))?.[0] ?? '';
    const named = [...table.matchAll(/`([a-z]+)/g)].map((match) => match[1] ?? '');
    const verbs = program().commands.map((command) => command.name());
    for (const verb of verbs) expect(named).toContain(verb);
    for (const row of table.matchAll(/^\| `([a-z]+)/gm)) expect(verbs).toContain(row[1]);
  });

  test('every folder of the sources has its sentence in ARCHITECTURE.md', () => {
    const text = read('ARCHITECTURE.md');
    const folders = ['agent', 'shipper', 'standby', 'restore-tool', 'cli', 'scripts', 'ops', 'test', 'bench'].map(
      (name) => `${name}/`,
    );
    const core = readdirSync(join(root, 'core')).filter((name) => readdirSync(join(root, 'core', name)).length > 0);
    for (const folder of [...folders, ...core.map((name) => `core/${name}`)])
      expect(text).toContain(`| \`${folder}\` |`);
  });

  test('every hint names only verbs that exist', () => {
    const verbs = program().commands.flatMap((command) => [
      command.name(),
      ...command.commands.map((child) => `${command.name()} ${child.name()}`),
    ]);
    const named = [...read('ops/errors.md').matchAll(/`qazyna ([a-z]+)/g)].map((match) => match[1] ?? '');
    expect(named.length).toBeGreaterThan(10);
    for (const verb of named) expect(verbs).toContain(verb);
  });

  test('no document and no example names this machine', () => {
    for (const text of [...documents.map(read), configExample(), read('ops/errors.md')])
      expect(text).not.toMatch(/\/work\/|\/root\/|\/tmp\/[a-z]*lab/);
  });
});
