/**
 * Stands in for a Grafana server, whose own program can be had from no package registry: answers as its documented HTTP API
 * does, from memory. `await using grafana = await GrafanaStandIn.start()`, `grafana.url`, `grafana.token`. Pages, rights,
 * versions, optimistic locking, provisioned objects and organizations are as the pages below
 * grafana.com/docs/grafana/latest/developers/http_api/ say, each named in grafana-store.ts and grafana-alerting.ts.
 * What those pages do not say, no test here can know.
 */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { GrafanaAlerting } from './grafana-alerting.ts';
import { type Answer, type Body, failed, GrafanaStore, ok, type StandInFaults } from './grafana-store.ts';
import { labPort } from './ports.ts';

const host = '127.0.0.1';

export interface StandInOptions {
  port?: number;
  /** Of the path below which it is served (`serve_from_sub_path`); all else is 404. */
  prefix?: string;
  version?: string;
  /** configure-grafana, auth.anonymous: `hide_version`. */
  hidesVersion?: boolean;
  organizations?: readonly { id: number; name: string; token: string }[];
}

interface Room {
  store: GrafanaStore;
  alerting: GrafanaAlerting;
}

interface Asked {
  room: Room;
  /** What the path's pattern caught. */
  parts: readonly string[];
  query: URLSearchParams;
  body: Body;
  isFree: boolean;
  /** From 12 on. */
  isNew: boolean;
  /** Before 11. */
  isOld: boolean;
  faults: StandInFaults;
}

type Handler = (asked: Asked) => Answer;

export class GrafanaStandIn implements AsyncDisposable {
  faults: StandInFaults = {};
  /** Told of each request before it is answered. */
  onRequest: (method: string, path: string) => void = () => undefined;
  requests = 0;
  readonly port: number;
  readonly version: string;
  readonly #prefix: string;
  readonly #hidesVersion: boolean;
  readonly #rooms = new Map<string, Room>();
  #server: Server | null = null;

  private constructor(
    port: number,
    { prefix = '', version = '11.2.0', hidesVersion = false, organizations }: StandInOptions,
  ) {
    this.port = port;
    this.#prefix = prefix;
    this.version = version;
    this.#hidesVersion = hidesVersion;
    for (const { id, name, token } of organizations ?? [{ id: 1, name: 'Main Org.', token: 'glsa_one' }])
      this.#rooms.set(token, { store: new GrafanaStore(id, name), alerting: new GrafanaAlerting(id) });
  }

  static async start(options: StandInOptions = {}): Promise<GrafanaStandIn> {
    const standIn = new GrafanaStandIn(options.port ?? (await labPort()), options);
    await standIn.resume();
    return standIn;
  }

  get url(): string {
    return `http://${host}:${this.port}${this.#prefix}`;
  }

  /** Of the first organization. */
  get token(): string {
    return [...this.#rooms.keys()][0] ?? '';
  }

  room(org = 1): Room {
    const found = [...this.#rooms.values()].find(({ store }) => store.org === org);
    if (found === undefined) throw new RangeError(`there is no organization ${org}`);
    return found;
  }

  get lastRoom(): Room {
    return this.room(Math.max(...[...this.#rooms.values()].map(({ store }) => store.org)));
  }

  /** Another token for the same organization; the old one is known no more. */
  renewToken(token: string): void {
    const [[old, room] = ['', null]] = this.#rooms;
    if (room === null) return;
    this.#rooms.delete(old);
    this.#rooms.set(token, room);
  }

  /** As a person at its pages would: a call with the token of an organization. */
  async call(method: string, path: string, body?: unknown, org = 1): Promise<Answer> {
    const token = [...this.#rooms].find(([, { store }]) => store.org === org)?.[0] ?? '';
    const headers = { authorization: `Bearer ${token}`, 'x-disable-provenance': 'true' };
    const content = body === undefined ? {} : { body: JSON.stringify(body) };
    const response = await fetch(`${this.url}${path}`, { method, headers, ...content });
    return { status: response.status, body: await response.json() };
  }

  /** The same, where anything but success fails. */
  async done(method: string, path: string, body?: unknown, org = 1): Promise<Body> {
    const answer = await this.call(method, path, body, org);
    if (answer.status >= 300) throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
    return answer.body as Body;
  }

  /** Nobody answers, until `resume`; what it knows stays. */
  async pause(): Promise<void> {
    const server = this.#server;
    this.#server = null;
    if (server === null) return;
    const closed = once(server, 'close');
    server.close();
    server.closeAllConnections();
    await closed;
  }

  async resume(): Promise<void> {
    const server = createServer((request, response) => void this.#serve(request, response));
    server.listen(this.port, host);
    await once(server, 'listening');
    this.#server = server;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.pause();
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    this.requests += 1;
    const parts: Buffer[] = [];
    for await (const part of request) parts.push(part as Buffer);
    const { delayMs = 0, cutBytes = 0, limit } = this.faults;
    if (delayMs > 0) await sleep(delayMs, undefined, { ref: false });
    const limited = limit?.refusal(`${request.method} ${request.url}`);
    const { status, body, headers } = limited ?? this.#answer(request, Buffer.concat(parts).toString('utf8'));
    const text = Buffer.from(JSON.stringify(body));
    response.writeHead(status, { 'content-type': 'application/json', ...headers });
    response.end(text.subarray(0, Math.max(0, text.length - cutBytes)));
  }

  #answer(request: IncomingMessage, text: string): Answer {
    const { pathname: whole, searchParams: query } = new URL(request.url ?? '/', this.url);
    if (!whole.startsWith(`${this.#prefix}/`)) return failed(404, 'outside of its path');
    const pathname = whole.slice(this.#prefix.length);
    this.onRequest(request.method ?? '', pathname);
    const { refuse, tokens } = this.faults;
    if (refuse !== undefined && pathname.startsWith(refuse.path)) return failed(refuse.status, 'refused by the test');
    // other: `GET /api/health` asks for no token.
    if (pathname === '/api/health')
      return ok({ database: 'ok', ...(this.#hidesVersion ? {} : { commit: 'test', version: this.version }) });
    const token = (request.headers.authorization ?? '').replace(/^Bearer /, '');
    const room = this.#rooms.get(token);
    if (tokens === 'expired') return failed(401, 'Expired API key');
    if (tokens === 'other' && pathname === '/api/org') return ok({ id: 99, name: 'Another' });
    if (room === undefined) return failed(401, 'Invalid API key');
    // authentication: X-Grafana-Org-Id; a token belongs to one organization only.
    const wanted = request.headers['x-grafana-org-id'];
    if (wanted !== undefined && Number(wanted) !== room.store.org)
      return failed(401, 'API key does not belong to the requested organization');
    // other: `GET /api/frontend/settings`, which needs a token.
    if (pathname === '/api/frontend/settings') return ok({ buildInfo: { commit: 'test', version: this.version } });
    // grafana/grafana#59989: all rules can be listed from 9.4 on.
    if (pathname === `${alerts}/alert-rules` && isBefore94(this.version)) return failed(404, 'Not found');
    const isFree = request.headers['x-disable-provenance'] !== undefined;
    const body = text === '' ? {} : (JSON.parse(text) as Body);
    for (const [method, pattern, handler] of routes) {
      const match = method === request.method ? pattern.exec(pathname) : null;
      if (match === null) continue;
      const caught = match.slice(1).map(decodeURIComponent);
      const answer = handler({
        room,
        parts: caught,
        query,
        body,
        isFree,
        isNew: majorOf(this.version) >= 12,
        isOld: majorOf(this.version) < 11,
        faults: this.faults,
      });
      // grafana/grafana#74558: before 11 a fault of the server.
      const { message } = answer.body as { message?: string };
      if (message?.startsWith('cannot change provenance') && majorOf(this.version) < 11)
        return { ...answer, status: 500 };
      const isList = request.method === 'GET' && answer.status === 200 && !query.has('name');
      return isList ? { status: 200, body: this.#shortened(answer.body) } : answer;
    }
    return failed(404, 'Not found');
  }

  #shortened(body: unknown): unknown {
    const { shortLists } = this.faults;
    return shortLists !== undefined && Array.isArray(body) ? body.slice(0, shortLists) : body;
  }
}

const number = (query: URLSearchParams, name: string, otherwise: number) => Number(query.get(name) ?? otherwise);
const alerts = '/api/v1/provisioning';

const routes: readonly [method: string, pattern: RegExp, handler: Handler][] = [
  // org: the organization of the token.
  ['GET', /^\/api\/org$/, ({ room }) => ok({ id: room.store.org, name: room.store.name })],
  ['GET', /^\/api\/org\/users$/, ({ room }) => ok(room.store.users)],
  // team: searched by name.
  [
    'GET',
    /^\/api\/teams\/search$/,
    ({ room, query }) => ok({ teams: room.store.teams.filter(({ name }) => name === query.get('name')) }),
  ],
  [
    'GET',
    /^\/api\/search$/,
    ({ room, query }) => room.store.search(query.get('type'), number(query, 'limit', 1000), number(query, 'page', 1)),
  ],
  ['POST', /^\/api\/folders$/, ({ room, body }) => room.store.makeFolder(body)],
  [
    'GET',
    /^\/api\/folders\/([^/]+)$/,
    ({ room, parts: [uid = ''], faults }) => {
      const { status, body } = room.store.folder(uid);
      const { version, ...rest } = body as Body;
      return { status, body: faults.foldersWithoutVersions === true ? rest : { ...rest, version } };
    },
  ],
  ['PUT', /^\/api\/folders\/([^/]+)$/, ({ room, parts: [uid = ''], body }) => room.store.changeFolder(uid, body)],
  ['DELETE', /^\/api\/folders\/([^/]+)$/, ({ room, parts: [uid = ''] }) => room.store.deleteFolder(uid)],
  ['POST', /^\/api\/folders\/([^/]+)\/move$/, ({ room, parts: [uid = ''], body }) => room.store.moveFolder(uid, body)],
  ['GET', /^\/api\/folders\/([^/]+)\/permissions$/, ({ room, parts: [uid = ''] }) => room.store.permissions(uid)],
  [
    'POST',
    /^\/api\/folders\/([^/]+)\/permissions$/,
    ({ room, parts: [uid = ''], body }) => room.store.setPermissions(uid, body),
  ],
  ['POST', /^\/api\/dashboards\/db$/, ({ room, body }) => room.store.saveDashboard(body)],
  [
    'GET',
    /^\/api\/dashboards\/uid\/([^/]+)$/,
    ({ room, parts: [uid = ''], faults }) =>
      faults.refusesSecondSchema === true && room.store.resources.has(uid)
        ? failed(406, 'dashboard api version not supported, use /apis/dashboard.grafana.app/… instead')
        : room.store.dashboard(uid),
  ],
  ['DELETE', /^\/api\/dashboards\/uid\/([^/]+)$/, ({ room, parts: [uid = ''] }) => room.store.deleteDashboard(uid)],
  [
    'GET',
    /^\/api\/dashboards\/uid\/([^/]+)\/versions$/,
    ({ room, parts: [uid = ''], query, isNew, faults }) => {
      const answer = room.store.versions(uid, number(query, 'limit', 1000));
      if (!isNew || answer.status !== 200) return answer;
      const from = number(query, 'continueToken', 0);
      const versions = (answer.body as unknown[]).slice(from, from + (faults.versionsAtOnce ?? 1000));
      const to = from + versions.length;
      return ok({ continueToken: to < (answer.body as unknown[]).length ? String(to) : '', versions });
    },
  ],
  [
    'GET',
    /^\/api\/dashboards\/uid\/([^/]+)\/versions\/(\d+)$/,
    ({ room, parts: [uid = '', version = ''] }) => room.store.version(uid, Number(version)),
  ],
  [
    'GET',
    /^\/apis\/dashboard\.grafana\.app\/([^/]+)\/namespaces\/default\/dashboards\/([^/]+)$/,
    ({ room, parts: [version = '', uid = ''], isNew }) =>
      isNew ? room.store.resource(version, uid) : failed(404, 'not found'),
  ],
  [
    'PUT',
    /^\/apis\/dashboard\.grafana\.app\/[^/]+\/namespaces\/default\/dashboards\/([^/]+)$/,
    ({ room, parts: [uid = ''], body }) => room.store.saveResource(uid, body),
  ],
  [
    'POST',
    /^\/apis\/dashboard\.grafana\.app\/[^/]+\/namespaces\/default\/dashboards$/,
    ({ room, body }) => room.store.saveResource(null, body),
  ],
  // data_source: the list lacks `secureJsonFields` and `version`.
  [
    'GET',
    /^\/api\/datasources$/,
    ({ room }) => ok([...room.store.datasources.values()].map(({ version: _, ...rest }) => rest)),
  ],
  ['POST', /^\/api\/datasources$/, ({ room, body }) => room.store.saveDatasource(null, body)],
  ['GET', /^\/api\/datasources\/uid\/([^/]+)$/, ({ room, parts: [uid = ''] }) => room.store.datasource(uid)],
  [
    'PUT',
    /^\/api\/datasources\/uid\/([^/]+)$/,
    ({ room, parts: [uid = ''], body }) => room.store.saveDatasource(uid, body),
  ],
  [
    'GET',
    /^\/api\/library-elements$/,
    ({ room, query }) => room.store.libraryPage(number(query, 'perPage', 100), number(query, 'page', 1)),
  ],
  ['POST', /^\/api\/library-elements$/, ({ room, body }) => room.store.saveLibraryElement(null, body)],
  ['GET', /^\/api\/library-elements\/([^/]+)$/, ({ room, parts: [uid = ''] }) => room.store.libraryElement(uid)],
  [
    'PATCH',
    /^\/api\/library-elements\/([^/]+)$/,
    ({ room, parts: [uid = ''], body }) => room.store.saveLibraryElement(uid, body),
  ],
  ['GET', new RegExp(`^${alerts}/alert-rules$`), ({ room }) => room.alerting.rules()],
  [
    'GET',
    new RegExp(`^${alerts}/folder/([^/]+)/rule-groups/([^/]+)$`),
    ({ room, parts: [folder = '', group = ''] }) => room.alerting.group(folder, group),
  ],
  [
    'PUT',
    new RegExp(`^${alerts}/folder/([^/]+)/rule-groups/([^/]+)$`),
    ({ room, parts: [folder = '', group = ''], body, isFree }) => room.alerting.saveGroup(folder, group, body, isFree),
  ],
  ['GET', new RegExp(`^${alerts}/contact-points$`), ({ room, query }) => room.alerting.points(query.get('name'))],
  [
    'POST',
    new RegExp(`^${alerts}/contact-points$`),
    ({ room, body, isFree }) => room.alerting.savePoint(null, body, isFree),
  ],
  [
    'PUT',
    new RegExp(`^${alerts}/contact-points/([^/]+)$`),
    ({ room, parts: [uid = ''], body, isFree }) => room.alerting.savePoint(uid, body, isFree),
  ],
  ['GET', new RegExp(`^${alerts}/policies$`), ({ room }) => ok(room.alerting.policies)],
  ['PUT', new RegExp(`^${alerts}/policies$`), ({ room, body, isFree }) => room.alerting.savePolicies(body, isFree)],
  ['GET', new RegExp(`^${alerts}/mute-timings$`), ({ room }) => ok([...room.alerting.muteTimings.values()])],
  [
    'GET',
    new RegExp(`^${alerts}/mute-timings/([^/]+)$`),
    ({ room, parts: [name = ''] }) => foundIn(room.alerting.muteTimings, name),
  ],
  [
    'POST',
    new RegExp(`^${alerts}/mute-timings$`),
    ({ room, body, isFree }) => room.alerting.saveMuteTiming(null, body, isFree),
  ],
  [
    'PUT',
    new RegExp(`^${alerts}/mute-timings/([^/]+)$`),
    ({ room, parts: [name = ''], body, isFree }) => room.alerting.saveMuteTiming(name, body, isFree),
  ],
  [
    'DELETE',
    new RegExp(`^${alerts}/mute-timings/([^/]+)$`),
    ({ room, parts: [name = ''] }) => deletedFrom(room.alerting.muteTimings, name),
  ],
  // grafana/grafana#82274: only since 10.4 with their provenance.
  [
    'GET',
    new RegExp(`^${alerts}/templates$`),
    ({ room, isOld }) =>
      ok(
        [...room.alerting.templates.values()].map(({ provenance, ...rest }) =>
          isOld ? rest : { provenance, ...rest },
        ),
      ),
  ],
  [
    'GET',
    new RegExp(`^${alerts}/templates/([^/]+)$`),
    ({ room, parts: [name = ''] }) => foundIn(room.alerting.templates, name),
  ],
  [
    'PUT',
    new RegExp(`^${alerts}/templates/([^/]+)$`),
    ({ room, parts: [name = ''], body, isFree }) => room.alerting.saveTemplate(name, body, isFree),
  ],
];

function foundIn(map: ReadonlyMap<string, Body>, name: string): Answer {
  const found = map.get(name);
  return found === undefined ? failed(404, 'not found') : ok(found);
}

function deletedFrom(map: Map<string, Body>, name: string): Answer {
  return map.delete(name) ? ok({}) : failed(404, 'not found');
}

function majorOf(version: string): number {
  return Number.parseInt(version, 10);
}

function isBefore94(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return major < 9 || (major === 9 && minor < 4);
}
