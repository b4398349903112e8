/**
 * What the stand-in for a Grafana keeps of one organization, and how it answers for folders, dashboards, data sources and
 * library panels. The pages that say so, below grafana.com/docs/grafana/latest/developers/http_api/, are named at each part.
 */

import { randomUUID } from 'node:crypto';
import type { RateLimit } from './grafana-limit.ts';

export type Body = { [key: string]: unknown };

export interface Answer {
  status: number;
  body: unknown;
  headers?: Record<string, string>;
}

export const ok = (body: unknown, status = 200): Answer => ({ status, body });
export const failed = (status: number, message: string, more: Body = {}): Answer => ({
  status,
  body: { message, ...more },
});

/** What a server does wrong, for as long as it is set. */
export interface StandInFaults {
  /** Requests above it are answered with 429. */
  limit?: RateLimit;
  /** Lists show so many of their objects only; not those that are asked for by a name. */
  shortLists?: number;
  /** Paths that begin so are answered with this status. */
  refuse?: { path: string; status: number };
  /** The body ends so many bytes before it should, and nothing says that it does: a proxy that cuts. */
  cutBytes?: number;
  delayMs?: number;
  /** From 11.6 on: of a dashboard's versions so many at once, the rest by their `continueToken` (grafana/grafana#131881). */
  versionsAtOnce?: number;
  /** Folders have no versions, as in some 10 with nested ones (grafana/grafana#59298). */
  foldersWithoutVersions?: boolean;
  /** Dashboards of the second schema are refused by the older API, as some 12 do (esnet/gdg#467). */
  refusesSecondSchema?: boolean;
  /** `expired`: every token is refused. `other`: it leads to another organization, as behind a proxy that was changed. */
  tokens?: 'expired' | 'other';
}

interface Folder {
  id: number;
  uid: string;
  title: string;
  parentUid: string;
  version: number;
  updated: string;
  updatedBy: string;
  permissions: Body[];
}

interface SavedVersion {
  version: number;
  created: string;
  createdBy: string;
  message: string;
  data: Body;
}

interface Dashboard {
  id: number;
  uid: string;
  folderUid: string;
  isProvisioned: boolean;
  versions: SavedVersion[];
}

/** Grafana keeps so many (`versions_to_keep`). */
const versionsToKeep = 20;

export class GrafanaStore {
  readonly org: number;
  name: string;
  readonly folders = new Map<string, Folder>();
  readonly dashboards = new Map<string, Dashboard>();
  readonly datasources = new Map<string, Body>();
  readonly secrets = new Map<string, Body>();
  readonly libraryElements = new Map<string, Body>();
  /** Dashboards of the second schema, as they are stored. */
  readonly resources = new Map<string, { apiVersion: string; spec: Body; resourceVersion: string }>();
  readonly teams: { id: number; name: string }[] = [];
  readonly users: { userId: number; login: string }[] = [{ userId: 1, login: 'admin' }];
  readonly #madeIn = new Map<string, unknown>();
  #nextId = 1;

  constructor(org: number, name: string) {
    this.org = org;
    this.name = name;
  }

  id(): number {
    this.#nextId += 1;
    return this.#nextId;
  }

  /** folder_dashboard_search: pages from 1; only what the caller may see. */
  search(type: string | null, limit: number, page: number): Answer {
    const folders = [...this.folders.values()].map(({ id, uid, title, parentUid }) => ({
      id,
      uid,
      title,
      url: `/dashboards/f/${uid}/x`,
      type: 'dash-folder',
      tags: [],
      isStarred: false,
      ...(parentUid === '' ? {} : { folderUid: parentUid }),
    }));
    const dashboards = [...this.dashboards.values()].map(({ id, uid, folderUid, versions }) => ({
      id,
      uid,
      title: versions.at(-1)?.data.title,
      url: `/d/${uid}/x`,
      type: 'dash-db',
      tags: versions.at(-1)?.data.tags ?? [],
      isStarred: false,
      ...(folderUid === '' ? {} : { folderUid, folderTitle: this.folders.get(folderUid)?.title }),
    }));
    const all = type === 'dash-folder' ? folders : type === 'dash-db' ? dashboards : [...folders, ...dashboards];
    return ok(all.slice((page - 1) * limit, page * limit));
  }

  /** folder: `GET /api/folders/:uid`. */
  folder(uid: string): Answer {
    const found = this.folders.get(uid);
    if (found === undefined) return failed(404, 'folder not found', { status: 'not-found' });
    const { permissions, parentUid, ...rest } = found;
    const common = {
      url: `/dashboards/f/${uid}/x`,
      hasAcl: permissions.length > 0,
      canSave: true,
      created: rest.updated,
    };
    return ok({ ...rest, ...common, ...(parentUid === '' ? {} : { parentUid, parents: [] }) });
  }

  /** folder: `POST /api/folders`; 409 where it is there. */
  makeFolder({ uid, title, parentUid = '' }: Body): Answer {
    const key = String(uid ?? '') || randomUUID();
    if (this.folders.has(key)) return failed(409, 'a folder with the same uid already exists');
    if (parentUid !== '' && !this.folders.has(String(parentUid))) return failed(400, 'parent folder not found');
    const permissions = [
      { role: 'Editor', permission: 2, permissionName: 'Edit' },
      { role: 'Viewer', permission: 1, permissionName: 'View' },
    ];
    const saved = { version: 1, updated: new Date().toISOString(), updatedBy: 'admin' };
    const place = { id: this.id(), uid: key, title: String(title), parentUid: String(parentUid) };
    this.folders.set(key, { ...place, ...saved, permissions });
    return this.folder(key);
  }

  /** folder: `PUT /api/folders/:uid`; 412 where the version is not the present one and `overwrite` is not said. */
  changeFolder(uid: string, { title, version, overwrite }: Body): Answer {
    const found = this.folders.get(uid);
    if (found === undefined) return failed(404, 'folder not found');
    if (overwrite !== true && version !== found.version)
      return failed(412, 'The folder has been changed by someone else', { status: 'version-mismatch' });
    this.folders.set(uid, {
      ...found,
      title: String(title),
      version: found.version + 1,
      updated: new Date().toISOString(),
    });
    return this.folder(uid);
  }

  /** folder: `POST /api/folders/:uid/move`. */
  moveFolder(uid: string, { parentUid = '' }: Body): Answer {
    const found = this.folders.get(uid);
    if (found === undefined) return failed(404, 'folder not found');
    this.folders.set(uid, { ...found, parentUid: String(parentUid) });
    return this.folder(uid);
  }

  /** folder: `DELETE /api/folders/:uid` takes along what lies in it. */
  deleteFolder(uid: string): Answer {
    if (!this.folders.delete(uid)) return failed(404, 'folder not found');
    for (const [key, { folderUid }] of this.dashboards) if (folderUid === uid) this.dashboards.delete(key);
    return ok({ message: 'Folder deleted' });
  }

  /** folder_permissions: with names of teams and users, and those that follow from the folder above. */
  permissions(uid: string): Answer {
    const found = this.folders.get(uid);
    if (found === undefined) return failed(404, 'folder not found');
    const own = found.permissions.map((item, index) => this.#permission(item, index, false));
    const above = this.folders.get(found.parentUid)?.permissions ?? [];
    return ok([...own, ...above.map((item, index) => this.#permission(item, index, true))]);
  }

  #permission(item: Body, index: number, inherited: boolean): Body {
    const team = this.teams.find(({ id }) => id === item.teamId);
    const user = this.users.find(({ userId }) => userId === item.userId);
    const names = { team: team?.name ?? '', userLogin: user?.login ?? '', role: item.role ?? '' };
    const ids = { id: index + 1, userId: item.userId ?? 0, teamId: item.teamId ?? 0 };
    return { ...ids, ...names, permission: item.permission, updated: new Date().toISOString(), inherited };
  }

  /** folder_permissions: `POST …` replaces them all. */
  setPermissions(uid: string, { items }: Body): Answer {
    const found = this.folders.get(uid);
    if (found === undefined) return failed(404, 'folder not found');
    found.permissions = items as Body[];
    return ok({ message: 'Folder permissions updated' });
  }

  /** dashboard: `GET /api/dashboards/uid/:uid`. */
  dashboard(uid: string): Answer {
    const found = this.dashboards.get(uid);
    const newest = found?.versions.at(-1);
    if (found === undefined || newest === undefined) return failed(404, 'Dashboard not found');
    return ok({
      dashboard: { ...newest.data, id: found.id, uid, version: newest.version },
      meta: {
        slug: 'x',
        url: `/d/${uid}/x`,
        version: newest.version,
        created: found.versions[0]?.created,
        updated: newest.created,
        updatedBy: newest.createdBy,
        folderUid: found.folderUid,
        provisioned: found.isProvisioned,
        isStarred: false,
      },
    });
  }

  /** dashboard: `POST /api/dashboards/db`; 412 by `version-mismatch` and `name-exists`, 400 for a provisioned one. */
  saveDashboard({ dashboard, folderUid = '', message = '', overwrite }: Body, author = 'admin'): Answer {
    const { id, uid, version, ...data } = dashboard as Body;
    const key = String(uid ?? '') || randomUUID();
    const found = this.dashboards.get(key);
    if (folderUid !== '' && !this.folders.has(String(folderUid))) return failed(400, 'folder not found');
    if (found?.isProvisioned) return failed(400, 'Cannot save provisioned dashboard');
    const newest = found?.versions.at(-1);
    if (found !== undefined && overwrite !== true) {
      if (id !== found.id)
        return failed(412, 'A dashboard with the same uid already exists', { status: 'name-exists' });
      if (version !== newest?.version)
        return failed(412, 'The dashboard has been changed by someone else', { status: 'version-mismatch' });
    }
    const next = (newest?.version ?? 0) + 1;
    const saved = { version: next, created: new Date().toISOString(), createdBy: author, message: String(message) };
    const versions = [...(found?.versions ?? []), { ...saved, data: { ...data, uid: key } }].slice(-versionsToKeep);
    const place = { uid: key, folderUid: String(folderUid), isProvisioned: false };
    this.dashboards.set(key, { id: found?.id ?? this.id(), ...place, versions });
    return ok({
      id: this.dashboards.get(key)?.id,
      uid: key,
      url: `/d/${key}/x`,
      status: 'success',
      version: next,
      slug: 'x',
    });
  }

  /**
   * apis, dashboard (from 12 on): as asked for, which may be converted; `status.conversion.storedVersion` says from what.
   */
  resource(version: string, uid: string): Answer {
    const found = this.resources.get(uid);
    const dashboard = this.dashboards.get(uid);
    if (dashboard === undefined) return failed(404, 'not found');
    const stored = found?.apiVersion.replace(/^.*\//, '') ?? 'v1beta1';
    const isAsStored = stored === version;
    const spec = isAsStored && found !== undefined ? found.spec : dashboard.versions.at(-1)?.data;
    const newest = dashboard.versions.at(-1);
    const annotations = {
      ...(dashboard.folderUid === '' ? {} : { 'grafana.app/folder': dashboard.folderUid }),
      'grafana.app/updatedBy': newest?.createdBy,
      'grafana.app/updatedTimestamp': newest?.created,
    };
    const resourceVersion = found?.resourceVersion ?? '1';
    const metadata = { name: uid, resourceVersion, generation: newest?.version, annotations };
    const status = isAsStored ? {} : { conversion: { failed: true, storedVersion: stored } };
    return ok({ apiVersion: `dashboard.grafana.app/${version}`, kind: 'Dashboard', metadata, spec, status });
  }

  /** dashboard (from 12 on): `POST` makes one, `PUT` replaces the one whose `resourceVersion` is given, else 409. */
  saveResource(uid: string | null, { apiVersion, metadata, spec }: Body): Answer {
    const { name, resourceVersion, annotations = {} } = metadata as Body;
    const key = uid ?? String(name);
    const found = this.resources.get(key);
    if (uid === null && this.dashboards.has(key)) return failed(409, 'already exists');
    if (uid !== null && resourceVersion !== (found?.resourceVersion ?? '1'))
      return failed(409, 'the object has been modified; please apply your changes to the latest version');
    const notes = annotations as Body;
    const folderUid = notes['grafana.app/folder'] ?? '';
    const message = notes['grafana.app/message'] ?? '';
    // What the older API shows of it: tabs and rows are lost there.
    const dashboard = { uid: key, title: (spec as Body).title, panels: [] };
    const saved = this.saveDashboard({ dashboard, folderUid, message, overwrite: true });
    if (saved.status !== 200) return saved;
    const next = String(Number(found?.resourceVersion ?? '1') + 1);
    this.resources.set(key, { apiVersion: String(apiVersion), spec: spec as Body, resourceVersion: next });
    return this.resource(String(apiVersion).replace(/^.*\//, ''), key);
  }

  deleteDashboard(uid: string): Answer {
    this.resources.delete(uid);
    return this.dashboards.delete(uid) ? ok({ message: 'Dashboard deleted' }) : failed(404, 'Dashboard not found');
  }

  /** dashboard_versions: newest first, without what they hold. */
  versions(uid: string, limit: number): Answer {
    const found = this.dashboards.get(uid);
    if (found === undefined) return failed(404, 'Dashboard not found');
    const listed = found.versions.map(({ data: _, ...rest }) => ({
      id: rest.version,
      dashboardId: found.id,
      uid,
      ...rest,
    }));
    return ok(listed.reverse().slice(0, limit));
  }

  /** dashboard_versions: `GET …/versions/:version`. */
  version(uid: string, version: number): Answer {
    const found = this.dashboards.get(uid)?.versions.find((one) => one.version === version);
    return found === undefined ? failed(404, 'Dashboard version not found') : ok({ ...found, uid });
  }

  /** data_source: secrets go in as `secureJsonData`, and only their names come out as `secureJsonFields`. */
  datasource(uid: string): Answer {
    const found = this.datasources.get(uid);
    if (found === undefined) return failed(404, 'Data source not found');
    const names = Object.keys(this.secrets.get(uid) ?? {});
    return ok({ ...found, secureJsonFields: Object.fromEntries(names.map((name) => [name, true])) });
  }

  saveDatasource(uid: string | null, { secureJsonData, ...content }: Body): Answer {
    const key = uid ?? (String(content.uid ?? '') || randomUUID());
    const found = this.datasources.get(key);
    if (uid === null && found !== undefined) return failed(409, 'data source with the same uid already exists');
    if (uid !== null && found === undefined) return failed(404, 'Data source not found');
    if (found?.readOnly === true) return failed(403, 'Cannot update read-only data source');
    const isTaken = [...this.datasources.values()].some((one) => one.name === content.name && one.uid !== key);
    if (isTaken) return failed(409, 'data source with the same name already exists');
    const version = Number(found?.version ?? 0) + 1;
    const defaults = {
      access: 'proxy',
      url: '',
      user: '',
      database: '',
      basicAuth: false,
      isDefault: false,
      jsonData: {},
    };
    const own = { id: found?.id ?? this.id(), uid: key, orgId: this.org, version, readOnly: false, typeLogoUrl: '' };
    this.datasources.set(key, { ...defaults, ...content, ...own });
    this.secrets.set(key, { ...this.secrets.get(key), ...(secureJsonData as Body | undefined) });
    return ok({ datasource: this.datasource(key).body as Body, message: 'Datasource added', name: content.name });
  }

  /** library_element: `GET /api/library-elements`, pages from 1. In the folder where each was made (grafana/grafana#123242). */
  libraryPage(perPage: number, page: number): Answer {
    const all = [...this.libraryElements.values()];
    const elements = all.slice((page - 1) * perPage, page * perPage).map((one) => {
      const folderUid = this.#madeIn.get(String(one.uid)) ?? '';
      return { ...one, folderUid, meta: { ...(one.meta as Body), folderUid } };
    });
    return ok({ result: { totalCount: all.length, page, perPage, elements } });
  }

  libraryElement(uid: string): Answer {
    const found = this.libraryElements.get(uid);
    return found === undefined ? failed(404, 'library element could not be found') : ok({ result: found });
  }

  /** library_element: `POST`, 400 where it is there; `PATCH`, 412 for another version than the present one. */
  saveLibraryElement(uid: string | null, { version, ...content }: Body): Answer {
    const key = uid ?? (String(content.uid ?? '') || randomUUID());
    const found = this.libraryElements.get(key);
    if (uid === null && found !== undefined) return failed(400, 'library element with that name or UID already exists');
    if (uid !== null && found === undefined) return failed(404, 'library element could not be found');
    if (found !== undefined && version !== found.version)
      return failed(412, 'the library element has been changed by someone else');
    const model = (content.model ?? found?.model ?? {}) as Body;
    const updated = new Date().toISOString();
    const saved = {
      updated,
      updatedBy: { id: 1, name: 'admin' },
      folderUid: content.folderUid ?? '',
      connectedDashboards: 0,
    };
    const about = { type: model.type ?? '', description: model.description ?? '' };
    const own = { id: found?.id ?? this.id(), orgId: this.org, uid: key, version: Number(found?.version ?? 0) + 1 };
    if (found === undefined) this.#madeIn.set(key, content.folderUid);
    this.libraryElements.set(key, { ...found, ...content, model, ...about, ...own, meta: saved });
    return this.libraryElement(key);
  }
}
