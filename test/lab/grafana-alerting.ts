/**
 * Alerting of the stand-in for a Grafana, by the provisioning API
 * (grafana.com/docs/grafana/latest/developers/http_api/alerting_provisioning/): what is saved without the header
 * X-Disable-Provenance belongs to the API (`provenance: api`), and only that may change it again.
 */
import { randomUUID } from 'node:crypto';
import { type Answer, type Body, failed, ok } from './grafana-store.ts';

const redacted = '[REDACTED]';
/** Settings that no answer shows. */
const secretSettings = ['url', 'token', 'password', 'apiKey'];

interface RuleGroup {
  folderUid: string;
  title: string;
  interval: number;
  rules: Body[];
}

export class GrafanaAlerting {
  readonly groups = new Map<string, RuleGroup>();
  readonly contactPoints = new Map<string, Body>();
  readonly muteTimings = new Map<string, Body>();
  readonly templates = new Map<string, Body>();
  policies: Body = { receiver: 'grafana-default-email', group_by: ['grafana_folder', 'alertname'] };
  readonly #org: number;

  constructor(org: number) {
    this.#org = org;
    this.contactPoints.set('=grafana-default-email', {
      uid: '',
      name: 'grafana-default-email',
      type: 'email',
      settings: { addresses: '<example@email.com>' },
      disableResolveMessage: false,
    });
  }

  /** `GET …/alert-rules`: all of them, without their groups' intervals. */
  rules(): Answer {
    return ok([...this.groups.values()].flatMap(({ rules }) => rules));
  }

  /** `GET …/folder/:uid/rule-groups/:group`. */
  group(folderUid: string, title: string): Answer {
    const found = this.groups.get(`${folderUid}/${title}`);
    return found === undefined ? failed(404, 'rule group does not exist') : ok(found);
  }

  /** `PUT …/folder/:uid/rule-groups/:group`: the group is then as it was sent, no rule more or less. */
  saveGroup(folderUid: string, title: string, { interval, rules }: Body, isFree: boolean): Answer {
    const key = `${folderUid}/${title}`;
    const held = this.groups.get(key)?.rules ?? [];
    const isForeign = held.some(({ provenance }) => provenance === 'file' || (provenance === 'api' && isFree));
    if (isForeign) return belongsToApi();
    const saved = (rules as Body[]).map((rule) => ({
      ...rule,
      id: Number(held.find(({ uid }) => uid === rule.uid)?.id ?? 100 + this.groups.size),
      uid: rule.uid || randomUUID(),
      orgID: this.#org,
      folderUID: folderUid,
      ruleGroup: title,
      updated: new Date().toISOString(),
      provenance: isFree ? '' : 'api',
    }));
    this.groups.set(key, { folderUid, title, interval: Number(interval), rules: saved });
    return ok(this.groups.get(key));
  }

  /** `GET …/contact-points[?name=]`: secrets are not shown. */
  points(name: string | null): Answer {
    const named = [...this.contactPoints.values()].filter((one) => name === null || one.name === name);
    return ok(named.map((one) => ({ ...one, settings: hide(one.settings as Body) })));
  }

  /** `POST …/contact-points` and `PUT …/contact-points/:uid`; what is sent as it was shown stays as it is. */
  savePoint(uid: string | null, content: Body, isFree: boolean): Answer {
    const key = uid ?? (String(content.uid ?? '') || randomUUID());
    const found = this.contactPoints.get(key);
    if (uid === null && found !== undefined) return failed(400, 'contact point with that uid already exists');
    if (uid !== null && found === undefined) return failed(404, 'contact point not found');
    if (isHeld(found, isFree)) return belongsToApi();
    const before = (found?.settings ?? {}) as Body;
    const settings = Object.fromEntries(
      Object.entries(content.settings as Body).map(([name, value]) => [
        name,
        value === redacted ? (before[name] ?? redacted) : value,
      ]),
    );
    this.contactPoints.set(key, { ...content, uid: key, settings, ...provenance(isFree) });
    return ok({ message: 'contactpoint updated' }, 202);
  }

  /** `PUT …/policies`: the tree is replaced; every receiver in it must be there. */
  savePolicies(tree: Body, isFree: boolean): Answer {
    if (isHeld(this.policies, isFree)) return belongsToApi();
    const names = new Set([...this.contactPoints.values()].map(({ name }) => name));
    const missing = receiversOf(tree).find((name) => !names.has(name));
    if (missing !== undefined) return failed(400, `invalid object specification: receiver '${missing}' does not exist`);
    this.policies = { ...tree, ...provenance(isFree) };
    return ok({ message: 'policies updated' }, 202);
  }

  saveMuteTiming(name: string | null, content: Body, isFree: boolean): Answer {
    const key = name ?? String(content.name);
    const found = this.muteTimings.get(key);
    if (name === null && found !== undefined) return failed(400, 'a mute timing with this name already exists');
    if (name !== null && found === undefined) return failed(404, 'mute timing not found');
    if (isHeld(found, isFree)) return belongsToApi();
    this.muteTimings.set(key, { ...content, name: key, ...provenance(isFree) });
    return ok(this.muteTimings.get(key), name === null ? 201 : 202);
  }

  saveTemplate(name: string, { template }: Body, isFree: boolean): Answer {
    if (isHeld(this.templates.get(name), isFree)) return belongsToApi();
    this.templates.set(name, { name, template, ...provenance(isFree) });
    return ok(this.templates.get(name), 202);
  }
}

const belongsToApi = () => failed(409, "cannot change provenance from 'api' to ''");

function hide(settings: Body): Body {
  return Object.fromEntries(
    Object.entries(settings).map(([name, value]) => [name, secretSettings.includes(name) ? redacted : value]),
  );
}

function provenance(isFree: boolean): Body {
  return isFree ? {} : { provenance: 'api' };
}

function isHeld(found: Body | undefined, isFree: boolean): boolean {
  return found?.provenance === 'file' || (found?.provenance === 'api' && isFree);
}

function receiversOf({ receiver, routes }: Body): unknown[] {
  const below = ((routes ?? []) as Body[]).flatMap(receiversOf);
  return receiver === undefined || receiver === '' ? below : [receiver, ...below];
}
