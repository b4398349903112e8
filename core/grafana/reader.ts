/**
 * Reads the objects of one organization of a Grafana (9 to 12): lists, single objects, versions of dashboards. What a list
 * leaves out is not gone for that: pages can be short, and rights can shrink. Only `isGone` says so, by asking for the
 * object itself.
 *
 * Shapes: grafana.com/docs/grafana/latest/developers/http_api/ (folder_dashboard_search, folder, folder_permissions,
 * dashboard, dashboard_versions, data_source, library_element, alerting_provisioning).
 */
import {
  canonical,
  isObject,
  type Json,
  type JsonObject,
  numberOf,
  objectOf,
  objectsOf,
  textOf,
  without,
} from './json.ts';
import {
  contentBytes,
  type GrafanaObject,
  type ObjectKey,
  type ObjectMeta,
  type ObjectType,
  type Provenance,
  ruleGroupOf,
  sha256Of,
} from './objects.ts';
import { readResource } from './resources.ts';
import { type GrafanaServer, majorOf } from './server.ts';

/** What a list tells of an object. */
export interface Listed {
  key: ObjectKey;
  title: string;
  /** As long as this is the same, so is the object; null: only the object itself tells. */
  mark: string | null;
  /** Where the list holds all of it. */
  object: GrafanaObject | null;
  /** Of a dashboard: the folder that it is in; of a folder, its parent; '' at the top. */
  folderUid: string;
}

/** A saved version of a dashboard, as their list tells of it. */
export interface DashboardVersion {
  version: number;
  savedMicros: number;
  author: string;
  message: string;
}

/** The largest page that every version gives; where there is another, it is asked for. */
const pageSize = 1000;
const libraryPageSize = 100;
const pagesMax = 1000;
/** Grafana itself keeps 20 of each dashboard unless it is told otherwise. */
const versionsMax = 1000;
const alerting = '/api/v1/provisioning';
/** Known to this server alone, or changing although nobody changed the object. */
const datasourceLocal = [
  'id',
  'orgId',
  'version',
  'readOnly',
  'typeLogoUrl',
  'typeName',
  'accessControl',
  'apiVersion',
];
const ruleLocal = ['id', 'orgID', 'updated', 'provenance', 'guid', 'version'];

export class GrafanaReader {
  readonly #server: GrafanaServer;
  readonly #org: number;
  readonly #hasResources: boolean;
  readonly #signal: AbortSignal;

  constructor(server: GrafanaServer, { org, version }: { org: number; version: string }, signal: AbortSignal) {
    this.#server = server;
    this.#org = org;
    this.#hasResources = (majorOf(version) ?? 0) >= 12;
    this.#signal = signal;
  }

  /** All objects of a type; null where this server has no such thing (alerting turned off). */
  async list(type: ObjectType): Promise<Listed[] | null> {
    switch (type) {
      case 'folder':
        return (await this.#search('dash-folder')).map((hit) => this.#listed('folder', hit, null));
      case 'dashboard':
        return (await this.#search('dash-db')).map((hit) => this.#listed('dashboard', hit, null));
      case 'datasource':
        return objectsOf(await this.#get('/api/datasources')).map(({ uid, name }) =>
          this.#listed('datasource', { uid: uid ?? '', title: name ?? '' }, null),
        );
      case 'library-element':
        // In which folder one lies only itself tells: from 11.6 on the list shows where it was made (grafana/grafana#123242).
        return (await this.#libraryElements()).map((element) =>
          this.#listed('library-element', { ...element, title: element.name ?? '' }, markOf(element)),
        );
      case 'rule-group':
        return await this.#ruleGroups();
      default:
        return (await this.#alertingList(type))?.map(whole) ?? null;
    }
  }

  /** null: it is not there (404). */
  async fetch(key: ObjectKey): Promise<GrafanaObject | null> {
    const uid = encodeURIComponent(key.uid);
    switch (key.type) {
      case 'folder':
        return await this.#folder(uid);
      case 'dashboard':
        return await this.#dashboard(key.uid);
      case 'datasource': {
        const found = await this.#find(`/api/datasources/uid/${uid}`);
        return isObject(found) ? this.#datasource(found) : null;
      }
      case 'library-element': {
        const found = await this.#find(`/api/library-elements/${uid}`);
        return isObject(found) ? this.#libraryElement(objectOf(found.result)) : null;
      }
      case 'rule-group': {
        const { folderUid, group } = ruleGroupOf(key.uid);
        const path = `${alerting}/folder/${encodeURIComponent(folderUid)}/rule-groups/${encodeURIComponent(group)}`;
        const found = await this.#find(path);
        return isObject(found) ? this.#ruleGroup(key.uid, found) : null;
      }
      default:
        return (await this.#alertingList(key.type))?.find(({ meta }) => meta.uid === key.uid) ?? null;
    }
  }

  /** Whether an object that no list showed is really not there. */
  async isGone(key: ObjectKey, title: string): Promise<boolean> {
    const name = encodeURIComponent(key.uid);
    switch (key.type) {
      case 'policy':
        return false;
      case 'folder':
        // Its permissions are asked for by another question, and may be what is missing.
        return (await this.#find(`/api/folders/${name}`)) === null;
      case 'mute-timing':
        return (await this.#find(`${alerting}/mute-timings/${name}`)) === null;
      case 'template':
        return (await this.#find(`${alerting}/templates/${name}`)) === null;
      case 'contact-point': {
        // There is no way to ask for one alone but by the name of its group.
        const found = await this.#find(`${alerting}/contact-points?name=${encodeURIComponent(title)}`);
        return Array.isArray(found) && objectsOf(found).every((one) => contactPointUid(one) !== key.uid);
      }
      default:
        return (await this.fetch(key)) === null;
    }
  }

  /** The newest version of a dashboard, by the smallest question that tells it; null: it is not there. */
  async newestVersion(uid: string): Promise<DashboardVersion | null> {
    return (await this.#versionList(uid, 1))?.[0] ?? null;
  }

  /** All versions that Grafana still has, oldest first. */
  async versions(uid: string): Promise<DashboardVersion[]> {
    return ((await this.#versionList(uid, versionsMax)) ?? []).sort((a, b) => a.version - b.version);
  }

  /** What an earlier version held; null: Grafana has it no more, or cannot tell it. */
  async fetchVersion(now: GrafanaObject, { version, ...saved }: DashboardVersion): Promise<GrafanaObject | null> {
    const path = `/api/dashboards/uid/${encodeURIComponent(now.meta.uid)}/versions/${version}`;
    const { body: found } = await this.#server.findIfTold(path, this.#signal);
    if (!isObject(found) || !isObject(found.data)) return null;
    const dashboard = without(found.data, 'id', 'version');
    const title = textOf(dashboard.title);
    return {
      meta: { ...now.meta, ...saved, title, version, message: saved.message || textOf(found.message) },
      // In which folder it was then is not told.
      content: { dashboard, folderUid: objectOf(now.content).folderUid ?? '' },
    };
  }

  async #get(path: string): Promise<Json> {
    return await this.#server.get(path, this.#signal);
  }

  async #find(path: string): Promise<Json | null> {
    return await this.#server.find(path, this.#signal);
  }

  /** Page after page until one is empty: one that is merely short need not be the last. */
  async #search(type: 'dash-db' | 'dash-folder'): Promise<JsonObject[]> {
    const path = `/api/search?type=${type}&limit=${pageSize}`;
    return await this.#pages((page) => this.#get(`${path}&page=${page}`).then(objectsOf));
  }

  async #libraryElements(): Promise<JsonObject[]> {
    const path = `/api/library-elements?perPage=${libraryPageSize}`;
    return await this.#pages(async (page) => {
      const { result } = objectOf(await this.#get(`${path}&page=${page}`));
      return objectsOf(objectOf(result).elements);
    });
  }

  async #pages(read: (page: number) => Promise<JsonObject[]>): Promise<JsonObject[]> {
    const found = new Map<string, JsonObject>();
    for (let page = 1; page <= pagesMax; page += 1) {
      const before = found.size;
      for (const one of await read(page)) found.set(textOf(one.uid), one);
      // A server that knows no pages gives the same one again.
      if (found.size === before) break;
    }
    return [...found.values()];
  }

  #listed(type: ObjectType, hit: JsonObject, mark: string | null): Listed {
    const key = { org: this.#org, type, uid: textOf(hit.uid) };
    return { key, title: textOf(hit.title), mark, object: null, folderUid: textOf(hit.folderUid) };
  }

  async #folder(uid: string): Promise<GrafanaObject | null> {
    const [found, permissions] = await Promise.all([
      this.#find(`/api/folders/${uid}`),
      this.#find(`/api/folders/${uid}/permissions`),
    ]);
    if (!isObject(found) || permissions === null) return null;
    const items = objectsOf(permissions).flatMap(permissionOf);
    const content = {
      title: found.title ?? '',
      parentUid: found.parentUid ?? '',
      permissions: items.sort((a, b) => (canonical(a) < canonical(b) ? -1 : 1)),
    };
    const saved = { savedMicros: microsOf(found.updated), author: textOf(found.updatedBy) };
    return this.#object('folder', found, found.title, content, saved);
  }

  async #dashboard(uid: string): Promise<GrafanaObject | null> {
    const path = `/api/dashboards/uid/${encodeURIComponent(uid)}`;
    const { isTold, body: found } = await this.#server.findIfTold(path, this.#signal);
    if (!isTold) return await this.#storedDashboard(uid, path);
    if (!isObject(found)) return null;
    const meta = objectOf(found.meta);
    const model = objectOf(found.dashboard);
    const version = numberOf(model.version) ?? numberOf(meta.version);
    const folderUid = textOf(meta.folderUid);
    const content: JsonObject = { dashboard: without(model, 'id', 'version'), folderUid };
    if (this.#hasResources) {
      const stored = await readResource(this.#server, this.#org, uid, this.#signal);
      if (stored !== null) content.resource = stored.resource;
    }
    return this.#object('dashboard', { uid, version }, model.title, content, {
      savedMicros: microsOf(meta.updated),
      author: textOf(meta.updatedBy),
      provenance: meta.provisioned === true ? 'file' : '',
    });
  }

  /** Of a dashboard that only the newer API tells. That it is there was said: it is not gone when that has it not. */
  async #storedDashboard(uid: string, path: string): Promise<GrafanaObject> {
    const stored = await readResource(this.#server, this.#org, uid, this.#signal);
    if (stored === null)
      throw this.#server.unreadable(path, 'it points to the newer API, and that does not have the dashboard');
    const { resource, model, folderUid, generation, updated, updatedBy } = stored;
    const content = { dashboard: without(model, 'id', 'version'), folderUid, resource };
    return this.#object('dashboard', { uid, version: generation }, model.title, content, {
      savedMicros: microsOf(updated),
      author: textOf(updatedBy),
    });
  }

  /** At most so many, newest first; null: there is no such dashboard. */
  async #versionList(uid: string, limit: number): Promise<DashboardVersion[] | null> {
    const path = `/api/dashboards/uid/${encodeURIComponent(uid)}/versions?limit=${limit}`;
    const listed = new Map<number, DashboardVersion>();
    for (let next = ''; ; ) {
      const found = await this.#find(`${path}${next}`);
      if (found === null) return next === '' ? null : [...listed.values()];
      const before = listed.size;
      // A list of them; from 11.6 on in an object, beside what leads on to more: of large ones not even 20 come at once
      // (grafana/grafana#104556, #131881).
      for (const one of versionsIn(isObject(found) ? found.versions : found)) listed.set(one.version, one);
      const more = textOf(objectOf(found).continueToken);
      if (more === '' || listed.size >= limit || listed.size === before) return [...listed.values()];
      next = `&continueToken=${encodeURIComponent(more)}`;
    }
  }

  #datasource(found: JsonObject): GrafanaObject {
    const secrets = Object.keys(objectOf(found.secureJsonFields)).sort();
    const content = { ...without(found, ...datasourceLocal, 'secureJsonFields'), secureFields: secrets };
    const provenance: Provenance = found.readOnly === true ? 'file' : '';
    return this.#object('datasource', found, found.name, content, { provenance });
  }

  #libraryElement(found: JsonObject): GrafanaObject {
    const { name = '', kind = 1, type = '', description = '', model = {} } = found;
    const meta = objectOf(found.meta);
    const folderUid = textOf(found.folderUid) || textOf(meta.folderUid);
    const content = { name, kind, type, description, model, folderUid };
    const saved = { savedMicros: microsOf(meta.updated), author: textOf(objectOf(meta.updatedBy).name) };
    return this.#object('library-element', found, name, content, saved);
  }

  async #ruleGroups(): Promise<Listed[] | null> {
    const rules = await this.#find(`${alerting}/alert-rules`);
    if (rules === null) return null;
    const groups = new Map<string, Json[]>();
    for (const rule of objectsOf(rules)) {
      const uid = `${textOf(rule.folderUID)}/${textOf(rule.ruleGroup)}`;
      groups.set(uid, [...(groups.get(uid) ?? []), rule]);
    }
    return [...groups].map(([uid, members]) => {
      const { folderUid, group } = ruleGroupOf(uid);
      return this.#listed('rule-group', { uid, title: group, folderUid }, markOf(members));
    });
  }

  #ruleGroup(uid: string, found: JsonObject): GrafanaObject {
    const rules = objectsOf(found.rules);
    const { title = '', folderUid = '', interval = 0 } = found;
    const content = { title, folderUid, interval, rules: rules.map((rule) => without(rule, ...ruleLocal)) };
    const savedMicros = Math.max(0, ...rules.map(({ updated }) => microsOf(updated)));
    const provenance = rules.map((rule) => provenanceOf(rule)).find((one) => one !== '') ?? '';
    return this.#object('rule-group', { uid }, title, content, { savedMicros, provenance });
  }

  async #alertingList(type: ObjectType): Promise<GrafanaObject[] | null> {
    if (type === 'policy') {
      const tree = await this.#find(`${alerting}/policies`);
      if (!isObject(tree)) return null;
      const content = without(tree, 'provenance');
      return [this.#object(type, { uid: 'root' }, 'the whole tree', content, { provenance: provenanceOf(tree) })];
    }
    const found = await this.#find(`${alerting}/${type}s`);
    if (found === null) return null;
    return objectsOf(found).map((one) => {
      const uid = type === 'contact-point' ? contactPointUid(one) : textOf(one.name);
      const content = without(one, 'provenance', 'version');
      return this.#object(type, { uid }, one.name, content, { provenance: provenanceOf(one) });
    });
  }

  #object(
    type: ObjectType,
    { uid, version }: JsonObject,
    title: Json | undefined,
    content: Json,
    more: Partial<Pick<ObjectMeta, 'savedMicros' | 'author' | 'message' | 'provenance'>>,
  ): GrafanaObject {
    const key = { org: this.#org, type, uid: textOf(uid) };
    const saved = { savedMicros: 0, author: '', message: '', provenance: '' as const, ...more };
    return { meta: { ...key, title: textOf(title), version: numberOf(version), ...saved }, content };
  }
}

/** From the types that it listed: it has alerting, and cannot list its rules, which came with 9.4. */
export function lacksRules(listed: { has(type: ObjectType): boolean }): boolean {
  return !listed.has('rule-group') && listed.has('contact-point');
}

function markOf(listed: Json): string {
  return sha256Of(contentBytes(listed));
}

function versionsIn(list: Json | undefined): DashboardVersion[] {
  return objectsOf(list).flatMap((one) => {
    const version = numberOf(one.version);
    const saved = { savedMicros: microsOf(one.created), author: textOf(one.createdBy), message: textOf(one.message) };
    return version === null ? [] : [{ version, ...saved }];
  });
}

function whole(object: GrafanaObject): Listed {
  const { org, type, uid, title } = object.meta;
  const folderUid = textOf(objectOf(object.content).folderUid);
  return { key: { org, type, uid }, title, mark: null, object, folderUid };
}

/** Those that Grafana made by itself have no uid; then their name stands for it. */
function contactPointUid({ uid, name }: JsonObject): string {
  return textOf(uid) || `=${textOf(name)}`;
}

/** To whom, and what; not what follows from the folder above. */
function permissionOf(item: JsonObject): JsonObject[] {
  if (item.inherited === true) return [];
  const permission = item.permission ?? 0;
  const team = textOf(item.team);
  const user = textOf(item.userLogin);
  const role = textOf(item.role);
  if (team !== '') return [{ team, permission }];
  if (user !== '') return [{ user, permission }];
  return role === '' ? [] : [{ role, permission }];
}

function provenanceOf({ provenance }: JsonObject): Provenance {
  const text = textOf(provenance);
  // Anything but the API holds on to what it made.
  return text === '' || text === 'api' ? text : 'file';
}

function microsOf(time: Json | undefined): number {
  const ms = Date.parse(textOf(time));
  return Number.isFinite(ms) && ms > 0 ? Math.round(ms * 1000) : 0;
}
