/** Grafana's objects as they are kept: JSON without loss, frames, files of a snapshot, differences, names of files. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { frameKinds, objectItem, openFrame, versionItem } from '../../core/grafana/frames.ts';
import { canonical, type Json, parseJson, pretty } from '../../core/grafana/json.ts';
import { contentBytes, type ObjectMeta, objectTypes, sha256Of } from '../../core/grafana/objects.ts';
import { emptyStateOf, filesOf, objectLine, readObjects, stateSettings } from '../../core/grafana/snapshot-files.ts';
import { GrafanaState, opened } from '../../core/grafana/state.ts';
import { differenceLine, differences } from '../../restore-tool/grafana/diff.ts';
import { filesOf as treeOf } from '../../restore-tool/grafana/tree.ts';

const anyJson = fc.jsonValue({ maxDepth: 4 }) as fc.Arbitrary<Json>;
const end = { file: 'journal.000001', offset: 4 };

function metaOf(uid: string, more: Partial<ObjectMeta> = {}): ObjectMeta {
  const saved = { savedMicros: 0, author: '', message: '', provenance: '' as const };
  return { org: 1, type: 'dashboard', uid, title: uid, version: 1, ...saved, ...more };
}

function stateOf(objects: readonly [ObjectMeta, Json][]): GrafanaState {
  const state = new GrafanaState();
  for (const [meta, content] of objects) {
    const item = objectItem(meta, contentBytes(content));
    state.apply(openFrame(item, 'here'), end);
  }
  return state;
}

describe('JSON', () => {
  test('goes through as it came, whatever it is', () => {
    fc.assert(
      fc.property(anyJson, (json) => {
        expect(JSON.parse(canonical(json))).toEqual(JSON.parse(JSON.stringify(json)));
        expect(JSON.parse(pretty(json))).toEqual(JSON.parse(JSON.stringify(json)));
        expect(canonical(parseJson(pretty(json)))).toBe(canonical(parseJson(JSON.stringify(json))));
      }),
    );
  });

  test('numbers that a double does not hold keep their digits', () => {
    for (const text of ['{"a":18446744073709551615}', '[0.12345678901234567890123]', '{"n":-9007199254740993}']) {
      expect(canonical(parseJson(text))).toBe(text);
      expect(pretty(parseJson(text)).replace(/\s/g, '')).toBe(text);
    }
    expect(canonical(parseJson('[1.0, 1e3, 0.5, 9007199254740991]'))).toBe('[1,1000,0.5,9007199254740991]');
  });

  test('equal values have one text, whatever their order; a key called __proto__ is one like others', () => {
    expect(canonical(parseJson('{"b":[{"d":1,"c":2}],"a":null}'))).toBe('{"a":null,"b":[{"c":2,"d":1}]}');
    expect(canonical(parseJson('{"__proto__":{"a":1},"a":"x"}'))).toBe('{"__proto__":{"a":1},"a":"x"}');
  });
});

describe('frames', () => {
  test('are those of FORMAT.md, and so are the kinds of objects', () => {
    const format = readFileSync(fileURLToPath(new URL('../../FORMAT.md', import.meta.url)), 'utf8');
    const section = format.slice(format.indexOf('### Frames of Grafana'), format.indexOf('### Snapshot of a Grafana'));
    const kinds = [...section.matchAll(/^\| (\d+) (\w+) \|/gm)].map(([, kind, name]) => [name, Number(kind)]);
    expect(Object.fromEntries(kinds)).toEqual(frameKinds);
    const types = [...section.matchAll(/^\| (`[^|]+) \|/gm)].flatMap(([, cell = '']) => cell.match(/[a-z-]+/g) ?? []);
    expect(types).toEqual(expect.arrayContaining([...objectTypes]));
    expect(types).toHaveLength(objectTypes.length);
  });

  const body = contentBytes({ dashboard: { title: 'x' }, folderUid: '' });

  test('say what they hold, and are refused when they do not hold it', () => {
    const item = versionItem(metaOf('a', { message: 'm'.repeat(10_000) }), body);
    const frame = openFrame(item, 'here');
    expect(frame).toMatchObject({ kind: 'version', sha256: sha256Of(body), meta: { uid: 'a' } });
    expect(frame.kind === 'version' && frame.meta.message.length).toBe(4096);
    for (const wrong of [
      { ...item, body: Buffer.from('{}') },
      { ...item, kind: 9 },
      { ...item, meta: { ...item.meta, type: 'other' } },
      { ...item, meta: { ...item.meta, sha256: undefined } },
    ])
      expect(() => openFrame(wrong, 'here')).toThrow(expect.objectContaining({ code: 'QZ3330' }));
  });
});

describe('a snapshot', () => {
  async function* pieces(bytes: Buffer, size: number): AsyncIterable<Buffer> {
    for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
  }

  test('holds the whole state, in pieces of any size', async () => {
    const state = stateOf([
      [metaOf('b', { message: 'line\nbreak', version: null }), { dashboard: { ns: parseJson('1700000000000000001') } }],
      [metaOf('a'), { dashboard: {}, folderUid: 'f' }],
      [metaOf('n/x', { type: 'rule-group', org: 2 }), { rules: [] }],
    ]);
    state.organizations.set(2, { org: 2, name: 'Labs', serverVersion: '11.2.0' });
    const files = filesOf(state);
    expect(files.map(({ path }) => path)).toEqual(['1/dashboard.jsonl', '2/rule-group.jsonl']);
    for (const size of [1, 7, 100_000]) {
      const read = emptyStateOf({ id: 's', settings: stateSettings(state) });
      for (const { path, objects } of files)
        await readObjects(read, 's', path, pieces(Buffer.concat(objects.map(objectLine)), size));
      expect([...read.objects.values()].map(opened)).toEqual(
        filesOf(state).flatMap(({ objects }) => objects.map(opened)),
      );
      expect(read.organizations).toEqual(state.organizations);
    }
  });

  test('that is cut short, or says nothing of itself, is refused', async () => {
    const state = stateOf([[metaOf('a'), {}]]);
    const whole = Buffer.concat(filesOf(state).flatMap(({ objects }) => objects.map(objectLine)));
    const read = (bytes: Buffer) => readObjects(new GrafanaState(), 's', 'p', pieces(bytes, 100));
    await expect(read(whole.subarray(0, -1))).rejects.toMatchObject({ code: 'QZ3950' });
    await expect(read(Buffer.from('{}\n'))).rejects.toMatchObject({ code: 'QZ3950' });
    expect(() => emptyStateOf({ id: 's', settings: {} })).toThrow(expect.objectContaining({ code: 'QZ3950' }));
  });
});

describe('differences', () => {
  const lines = (before: Json, after: Json) => differences(before, after).map(differenceLine);

  test('name the place by what is called so there', () => {
    expect(
      lines(
        {
          title: 'a',
          panels: [
            { id: 1, title: 'CPU', w: 1 },
            { id: 2, title: 'Disk' },
          ],
          tags: ['x', 'y'],
        },
        {
          title: 'b',
          panels: [
            { id: 3, title: 'Net' },
            { id: 1, title: 'CPU', w: 2 },
          ],
          tags: ['x', 'z', 'y'],
          new: null,
        },
      ),
    ).toEqual([
      '~ title: "a" → "b"',
      '~ panels[1 “CPU”].w: 1 → 2',
      '- panels[2 “Disk”]: {"id":2,"title":"Disk"}',
      '+ panels[3 “Net”]: {"id":3,"title":"Net"}',
      '+ tags[1]: "z"',
      '+ new: null',
    ]);
    expect(lines([{ name: 'a' }, { name: 'b' }], [{ name: 'b' }, { name: 'a' }])).toEqual([
      '~ (order): ["a","b"] → ["b","a"]',
    ]);
    expect(lines({ 'a b': 1 }, { 'a b': 'x'.repeat(500) })[0]).toHaveLength(133);
  });

  test('are none between equal values, and some between others', () => {
    fc.assert(
      fc.property(anyJson, anyJson, (one, other) => {
        const [a, b] = [parseJson(JSON.stringify(one)), parseJson(JSON.stringify(other))];
        expect(differences(a, a)).toEqual([]);
        expect(differences(a, b).length > 0).toBe(canonical(a) !== canonical(b));
      }),
    );
  });
});

test('names of files are readable, safe, and none is given twice', () => {
  const folder = (uid: string, title: string, parentUid: string): [ObjectMeta, Json] => [
    metaOf(uid, { type: 'folder', title }),
    { title, parentUid, permissions: [] },
  ];
  const board = (uid: string, title: string, folderUid: string): [ObjectMeta, Json] => [
    metaOf(uid, { title }),
    { dashboard: { title }, folderUid },
  ];
  const state = stateOf([
    folder('sub', '../..', 'top'),
    folder('top', 'Ünï / code\n', ''),
    board('one', 'Same', 'sub'),
    board('two', 'SAME', 'sub'),
    board('dots', '...', ''),
    board('long', 'é'.repeat(300), ''),
    board('lost', 'Lost', 'unknown'),
  ]);
  const paths = [...treeOf(state, 1).keys()].filter((path) => path.startsWith('dashboards/'));
  expect(paths.sort()).toEqual(
    [
      'dashboards/Lost.json',
      'dashboards/dots.json',
      `dashboards/${'é'.repeat(75)}.json`,
      'dashboards/Ünï - code-/-/SAME (two).json',
      'dashboards/Ünï - code-/-/Same.json',
    ].sort(),
  );
});
