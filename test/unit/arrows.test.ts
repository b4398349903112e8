import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { checkArrows, importsOf } from '../../scripts/arrows.ts';

let root = '';

function given(files: Record<string, string>): string[] {
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  return checkArrows(root).wrong;
}

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'qazyna-arrows-'));
  for (const folder of ['core', 'agent', 'shipper', 'standby', 'restore-tool', 'cli', 'test', 'bench', 'scripts']) {
    mkdirSync(join(root, folder));
  }
  writeFileSync(
    join(root, 'package.json'),
    JSON.stringify({ dependencies: { mysql2: '1', winston: '1' }, devDependencies: { 'fast-check': '1' } }),
  );
});

afterEach(() => rmSync(root, { recursive: true }));

/** Spelled so that this file's own scan does not take the samples below for imports. */
const dynamic = 'import';
const leaf = 'export const a = 1;\n';

describe('the import arrows', () => {
  test('down the layers, within a program and from a program into core: fine', () => {
    const wrong = given({
      'core/errors/error.ts': leaf,
      'core/chain/fold.ts': `import { a } from '../errors/error.ts';\n`,
      'core/chain/more.ts': `import type { a } from './fold.ts';\nimport { readFile } from 'node:fs/promises';\n`,
      'agent/agent.ts': `import { a } from '../core/chain/fold.ts';\nimport './part.ts';\n`,
      'agent/part.ts': leaf,
      'cli/main.ts': `const { a } = await ${dynamic}('../agent/agent.ts');\n`,
      'test/unit/a.test.ts': `import fc from 'fast-check';\n`,
    });
    expect(wrong).toEqual([]);
  });

  test.each([
    ['up the layers', 'core/errors/error.ts', `import { a } from '../chain/x.ts';`, 'core/errors is below core/chain'],
    ['up by a type alone', 'core/errors/error.ts', `import type { A } from '../chain/x.ts';`, 'is below core/chain'],
    ['up by a type query', 'core/errors/e.ts', `type A = ${dynamic}('../chain/x.ts').A;`, 'is below core/chain'],
    ['up by a re-export', 'core/errors/e.ts', `export * from '../chain/x.ts';`, 'is below core/chain'],
    [
      'up by an import over lines',
      'core/errors/e.ts',
      `import {\n  a,\n} from '../chain/x.ts';`,
      'is below core/chain',
    ],
    ['from core into a program', 'core/chain/y.ts', `import '../../agent/x.ts';`, 'core knows no program'],
    ['between programs', 'shipper/y.ts', `import { a } from '../agent/x.ts';`, 'shipper stands alone'],
    ['from a program into cli', 'agent/y.ts', `import { a } from '../cli/x.ts';`, 'agent stands alone'],
    ['from cli into test', 'cli/y.ts', `import { a } from '../test/x.ts';`, 'cli imports only'],
    [
      'a client outside its owner',
      'agent/y.ts',
      `import { createConnection } from 'mysql2/promise';`,
      'mysql2 is imported',
    ],
    ['a tool in what is shipped', 'core/chain/y.ts', `import fc from 'fast-check';`, 'not in package.json'],
    ['a file that is not there', 'agent/y.ts', `import { a } from './gone.ts';`, 'there is no such file'],
    ['a folder without a layer', 'core/odds/y.ts', `import { a } from '../chain/x.ts';`, 'no place in the layers'],
  ])('%s: wrong', (_what, path, line, reason) => {
    const places = { 'core/chain/x.ts': leaf, 'agent/x.ts': leaf, 'cli/x.ts': leaf, 'test/x.ts': leaf };
    const wrong = given({ ...places, [path]: `${line}\n` });
    expect(wrong).toHaveLength(1);
    expect(wrong[0]).toContain(reason);
    expect(wrong[0]).toContain(`${path}:1`);
  });

  test('a circle of three files, one arrow of it a type: wrong, with its way', () => {
    const wrong = given({
      'agent/a.ts': `import { b } from './b.ts';\n`,
      'agent/b.ts': `import type { C } from './c.ts';\n`,
      'agent/c.ts': `import { a } from './a.ts';\n`,
      'agent/d.ts': `import { a } from './a.ts';\n`,
    });
    expect(wrong).toEqual(['a circle: agent/a.ts → agent/b.ts → agent/c.ts → agent/a.ts']);
  });

  test('what a test writes down as the text of a program is no import of its own', () => {
    const text = [
      '// a comment with one ` in it, and it’s fine',
      "import { a } from './a.ts';",
      'const lone = /[`/]/.exec("`") ?? \'`\';',
      `const program = \`\${[1].map((n) => { return \`\${n}\`; })}`,
      "import { b } from './b.ts';",
      "await import('./c.ts'); \\`",
      `\${lone}`,
      "export * from './c.ts';",
      '`;',
      "export * from './d.ts';",
      "const e = await import('./e.ts');",
    ];
    const found = importsOf(text.join('\n'), 'test/x.ts').map(({ to }) => to);
    expect(found).toEqual(['test/a.ts', 'test/d.ts', 'test/e.ts']);
  });

  test('an import that it cannot read is an error, not an oversight', () => {
    expect(() => importsOf(`import { a }\n  from somewhere;\n`, 'agent/a.ts')).toThrow('agent/a.ts:1');
  });
});
