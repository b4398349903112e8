/**
 * A Grafana as files with readable names, for git and for provisioning: dashboards as their JSON in folders as they lie,
 * data sources and alerting in the format of provisioning files (grafana.com/docs/grafana/latest/administration/provisioning
 * and …/alerting/set-up/provision-alerting-resources/file-provisioning). JSON is YAML, too.
 */
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { configurationError } from '../../core/errors/error.ts';
import {
  type Json,
  type JsonObject,
  numberOf,
  objectOf,
  objectsOf,
  pretty,
  textOf,
  without,
} from '../../core/grafana/json.ts';
import type { GrafanaObject, ObjectType } from '../../core/grafana/objects.ts';
import type { GrafanaState } from '../../core/grafana/state.ts';
import { everything } from './select.ts';

/** Bytes that every file system takes in a name, with room for what tells two apart. */
const nameMax = 150;

/** What a person saves by hand: all of the dashboard, without the number that only one server knows. */
export function dashboardText({ meta, content }: GrafanaObject): string {
  const { dashboard, resource } = objectOf(content);
  if (resource !== undefined) {
    const { apiVersion = '', spec = {} } = objectOf(resource);
    return `${pretty({ apiVersion, kind: 'Dashboard', metadata: { name: meta.uid }, spec })}\n`;
  }
  return `${pretty({ id: null, ...objectOf(dashboard), uid: meta.uid, version: meta.version })}\n`;
}

/** Writes all of it below `dir`, which is new or empty. Resolves with how many files. Throws QZ2960. */
export async function writeTree(state: GrafanaState, orgs: readonly number[], dir: string): Promise<number> {
  const present = await readdir(dir).catch(() => []);
  if (present.some((name) => name !== '.git')) throw notEmpty(dir);
  const files = new Map<string, string>();
  for (const org of orgs) {
    const name = state.organizations.get(org)?.name ?? String(org);
    const root = orgs.length === 1 ? '' : fileName(name, String(org), new Set());
    for (const [path, text] of filesOf(state, org)) files.set(join(root, path), text);
  }
  for (const [path, text] of files) {
    await mkdir(dirname(join(dir, path)), { recursive: true });
    await writeFile(join(dir, path), text, { mode: 0o640, flag: 'wx' });
  }
  return files.size;
}

/** Text of each file by its path. */
export function filesOf(state: GrafanaState, org: number): Map<string, string> {
  const objects = everything(state, org).map(({ object }) => object);
  const of = (type: ObjectType) => objects.filter(({ meta }) => meta.type === type);
  const folders = folderPaths(of('folder'));
  const files = new Map<string, string>();
  const put = (path: string, content: Json) => files.set(path, `${pretty(content)}\n`);
  const names = new Names();
  for (const object of of('dashboard')) {
    const place = join('dashboards', folders.get(textOf(objectOf(object.content).folderUid)) ?? '');
    files.set(join(place, `${names.of(place, object.meta)}.json`), dashboardText(object));
  }
  for (const { meta, content } of of('library-element'))
    put(join('library-panels', `${names.of('library-panels', meta)}.json`), { uid: meta.uid, ...objectOf(content) });
  if (of('folder').length > 0)
    put(
      'folders.json',
      of('folder').map(({ meta, content }) => ({ uid: meta.uid, ...objectOf(content) })),
    );
  const datasources = of('datasource').map(({ content }) => datasourceEntry(org, objectOf(content)));
  if (datasources.length > 0) put('datasources/datasources.yaml', { apiVersion: 1, datasources });
  for (const [path, content] of alertingFiles(org, of, folders)) put(join('alerting', path), content);
  return files;
}

/** What each kind of alerting needs in a file of its own. */
function alertingFiles(
  org: number,
  of: (type: ObjectType) => GrafanaObject[],
  folders: ReadonlyMap<string, string>,
): [path: string, content: JsonObject][] {
  const files: [string, JsonObject][] = [];
  const contents = (type: ObjectType) => of(type).map(({ content }) => objectOf(content));
  const add = (path: string, key: string, items: Json[]) => {
    if (items.length > 0) files.push([path, { apiVersion: 1, [key]: items }]);
  };
  add('contact-points.json', 'contactPoints', contactPoints(org, contents('contact-point')));
  add(
    'policies.json',
    'policies',
    contents('policy').map((tree) => ({ orgId: org, ...tree })),
  );
  add(
    'mute-timings.json',
    'muteTimes',
    contents('mute-timing').map((one) => ({ orgId: org, ...one })),
  );
  add(
    'templates.json',
    'templates',
    contents('template').map((one) => ({ orgId: org, ...one })),
  );
  const names = new Names();
  for (const { meta, content } of of('rule-group')) {
    const { title = '', folderUid, interval = 0, rules } = objectOf(content);
    const folder = folders.get(textOf(folderUid)) ?? textOf(folderUid);
    const own = objectsOf(rules).map((rule) => without(rule, 'folderUID', 'ruleGroup', 'orgID'));
    const group = { orgId: org, name: title, folder, interval: `${numberOf(interval) ?? 0}s`, rules: own };
    const place = join('rules', folder);
    files.push([join(place, `${names.of(place, meta)}.json`), { apiVersion: 1, groups: [group] }]);
  }
  return files;
}

/** Those of one name are one contact point with several receivers. */
function contactPoints(org: number, points: readonly JsonObject[]): Json[] {
  const byName = new Map<string, Json[]>();
  for (const point of points) {
    const name = textOf(point.name);
    byName.set(name, [...(byName.get(name) ?? []), without(point, 'name')]);
  }
  return [...byName].map(([name, receivers]) => ({ orgId: org, name, receivers }));
}

/** Secrets stand as the names of variables, which provisioning fills in. */
function datasourceEntry(org: number, content: JsonObject): JsonObject {
  const { secureFields, ...rest } = content;
  const names = Array.isArray(secureFields) ? secureFields.filter((one) => typeof one === 'string') : [];
  const variable = (field: string) => `${textOf(content.name)}_${field}`.toUpperCase().replace(/[^A-Z0-9]+/g, '_');
  const secureJsonData = Object.fromEntries(names.map((field) => [field, `$${variable(field)}`]));
  return { orgId: org, ...rest, ...(names.length === 0 ? {} : { secureJsonData }) };
}

/** Where each folder is below the top, by its uid. */
function folderPaths(folders: readonly GrafanaObject[]): Map<string, string> {
  const paths = new Map<string, string>();
  const names = new Names();
  // Parents stand before what lies in them.
  for (const { meta, content } of folders) {
    const above = paths.get(textOf(objectOf(content).parentUid)) ?? '';
    paths.set(meta.uid, join(above, names.of(above, meta)));
  }
  return paths;
}

/** Names for files, none twice in one folder, also where large and small letters are the same. */
class Names {
  readonly #taken = new Map<string, Set<string>>();

  of(place: string, { title, uid }: { title: string; uid: string }): string {
    const taken = this.#taken.get(place) ?? new Set();
    this.#taken.set(place, taken);
    return fileName(title, uid, taken);
  }
}

function fileName(title: string, uid: string, taken: Set<string>): string {
  const safe = (text: string) =>
    text
      .normalize('NFC')
      // biome-ignore lint/suspicious/noControlCharactersInRegex: a name must not steer a terminal
      .replace(/[\u0000-\u001f\u007f/\\:*?"<>|]+/g, '-')
      .replace(/^[. ]+|[. ]+$/g, '');
  const name = bytesOf(safe(title), nameMax) || bytesOf(safe(uid), nameMax) || 'unnamed';
  const distinct = taken.has(name.toLowerCase()) ? `${name} (${bytesOf(safe(uid), 60)})` : name;
  taken.add(distinct.toLowerCase());
  return distinct;
}

/** At most so many bytes, whole characters only. */
function bytesOf(text: string, max: number): string {
  let bytes = 0;
  let kept = '';
  for (const character of text) {
    bytes += Buffer.byteLength(character);
    if (bytes > max) break;
    kept += character;
  }
  return kept;
}

function notEmpty(dir: string) {
  return configurationError(
    'QZ2960',
    `The folder ${dir} is not empty, and nothing in it is overwritten.`,
    'Name a new or an empty one (a .git in it may be there).',
  );
}
