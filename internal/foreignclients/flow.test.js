// OAuth clients that nobody here wrote complete the flow against examples/fakeapple, and see its errors: each in every way of
// delivery, with six errors. Run: npm ci && npm test

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { OAuth2Client } from '@badgateway/oauth2-client';
import * as oauth from 'oauth4webapi';
import * as openid from 'openid-client';
import { AuthorizationCode, ClientCredentials } from 'simple-oauth2';

const state = 'state-1';
const folder = mkdtempSync(join(tmpdir(), 'foreignclients-'));
const binary = join(folder, 'fakeapple.exe'); // a name that runs everywhere
const fakes = {}; // by delivery: the program and its first line

before(async () => {
  execFileSync('go', ['build', '-o', binary, '../../examples/fakeapple'], { cwd: import.meta.dirname, stdio: 'inherit' });
  for (const delivery of ['get', 'post']) {
    const args = ['-consent', 'allow', '-deliver', delivery, '-service-account', 'account:secret'];
    const program = spawn(binary, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    const [line] = await once(createInterface(program.stdout), 'line', { signal: AbortSignal.timeout(30_000) });
    fakes[delivery] = { program, ...JSON.parse(line) };
  }
});

after(async () => {
  for (const { program } of Object.values(fakes)) {
    program.kill('SIGTERM');
    assert.deepEqual(await once(program, 'exit'), [0, null]);
  }
  rmSync(folder, { recursive: true });
});

async function steer(fake, route, body = {}) {
  const response = await fetch(`${fake.api_url}/_fake/${route}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  assert.ok(response.ok, await response.clone().text());
  return response.status === 200 ? response.json() : undefined;
}

const requests = async (fake) => (await fetch(`${fake.api_url}/_fake/requests`)).json();

// browse returns the URL that the user's browser brings back: from a redirect, or from the form that a POST is made of.
async function browse(url) {
  const response = await fetch(url, { redirect: 'manual' });
  const location = response.headers.get('location');
  return new URL(location ?? (await response.text()).match(/action="([^"]*)"/)[1].replaceAll('&amp;', '&'));
}

// sendsJSON is a fetch that turns the form of these clients into the JSON that Apple wants.
const sendsJSON = (url, init) => {
  const headers = new Headers(init.headers);
  headers.set('content-type', 'application/json');
  return fetch(url, { ...init, headers, body: JSON.stringify(Object.fromEntries(new URLSearchParams(init.body))) });
};

const challenge = async (verifier) => ({
  code_challenge: await oauth.calculatePKCECodeChallenge(verifier),
  code_challenge_method: 'S256',
});

// Each client: authorize returns the authorization URL, redeem and refresh return the token response or throw, and shown is what
// the client shows of an error. With json false it sends forms, if it can.
const clients = {
  'simple-oauth2'(fake, { secret = fake.client_secret, json = true } = {}) {
    const [redirect_uri] = fake.redirect_uris;
    const client = new AuthorizationCode({
      client: { id: fake.client_id, secret },
      auth: {
        tokenHost: fake.api_url,
        tokenPath: new URL(fake.token_url).pathname,
        authorizePath: new URL(fake.authorization_url).pathname,
      },
      options: { bodyFormat: json ? 'json' : 'form', authorizationMethod: 'body' },
    });
    return {
      // It has no PKCE, does not look at the state, and not at an error of the redirect.
      authorize: async (verifier) => client.authorizeURL({ redirect_uri, state, ...(await challenge(verifier)) }),
      async redeem(url, code_verifier) {
        assert.equal(url.searchParams.get('state'), state);
        if (url.searchParams.has('error')) throw Object.assign(new Error(), { data: { payload: Object.fromEntries(url.searchParams) } });
        return (await client.getToken({ code: url.searchParams.get('code'), redirect_uri, code_verifier })).token;
      },
      refresh: async (refresh_token) => (await client.createToken({ refresh_token }).refresh()).token,
      shown: (err) => ({
        status: err.output?.statusCode,
        error: err.data?.payload?.error,
        description: err.data?.payload?.error_description,
      }),
    };
  },

  oauth4webapi(fake, { secret = fake.client_secret, json = true } = {}) {
    const server = { issuer: fake.api_url, authorization_endpoint: fake.authorization_url, token_endpoint: fake.token_url };
    const client = { client_id: fake.client_id };
    const [redirectURI] = fake.redirect_uris;
    const options = { [oauth.allowInsecureRequests]: true, ...(json && { [oauth.customFetch]: sendsJSON }) };
    const post = oauth.ClientSecretPost(secret);
    return {
      async authorize(verifier) {
        const url = new URL(fake.authorization_url);
        url.search = new URLSearchParams({
          client_id: fake.client_id, response_type: 'code', redirect_uri: redirectURI, state, ...(await challenge(verifier)),
        });
        return url;
      },
      async redeem(url, verifier) {
        const params = oauth.validateAuthResponse(server, client, url, state);
        const response = await oauth.authorizationCodeGrantRequest(server, client, post, params, redirectURI, verifier, options);
        return oauth.processAuthorizationCodeResponse(server, client, response);
      },
      async refresh(token) {
        const response = await oauth.refreshTokenGrantRequest(server, client, post, token, options);
        return oauth.processRefreshTokenResponse(server, client, response);
      },
      // A response without an OAuth error is the cause of an OAUTH_RESPONSE_IS_NOT_CONFORM.
      shown: (err) => ({ status: err.status ?? err.cause?.status, error: err.error ?? err.code, description: err.error_description }),
    };
  },

  'openid-client'(fake, { secret = fake.client_secret, json = true } = {}) {
    const server = { issuer: fake.api_url, authorization_endpoint: fake.authorization_url, token_endpoint: fake.token_url };
    const config = new openid.Configuration(server, fake.client_id, undefined, openid.ClientSecretPost(secret));
    openid.allowInsecureRequests(config);
    if (json) config[openid.customFetch] = sendsJSON;
    const [redirect_uri] = fake.redirect_uris;
    return {
      authorize: async (verifier) => openid.buildAuthorizationUrl(config, { redirect_uri, state, ...(await challenge(verifier)) }),
      redeem: (url, pkceCodeVerifier) => openid.authorizationCodeGrant(config, url, { pkceCodeVerifier, expectedState: state }),
      refresh: (token) => openid.refreshTokenGrant(config, token),
      shown: (err) => ({
        status: err.status ?? err.cause?.cause?.status ?? err.cause?.status, error: err.error ?? err.code, description: err.error_description,
      }),
    };
  },

  '@badgateway/oauth2-client'(fake, { secret = fake.client_secret, json = true } = {}) {
    const client = new OAuth2Client({
      clientId: fake.client_id,
      clientSecret: secret,
      authorizationEndpoint: fake.authorization_url,
      tokenEndpoint: fake.token_url,
      authenticationMethod: 'client_secret_post',
      ...(json && { fetch: sendsJSON }),
    });
    const [redirectUri] = fake.redirect_uris;
    // It gives the members other names, and expires_in as an instant.
    const response = ({ accessToken, refreshToken, expiresAt }) => ({
      access_token: accessToken, refresh_token: refreshToken, expires_in: Math.round((expiresAt - Date.now()) / 1000),
    });
    return {
      authorize: (codeVerifier) => client.authorizationCode.getAuthorizeUri({ redirectUri, state, codeVerifier }),
      redeem: async (url, codeVerifier) =>
        response(await client.authorizationCode.getTokenFromCodeRedirect(url, { redirectUri, state, codeVerifier })),
      refresh: async (refreshToken) => response(await client.refreshToken({ accessToken: '', expiresAt: null, refreshToken })),
      shown: (err) => ({ status: err.httpCode, error: err.oauth2Code ?? undefined, description: err.parsedBody?.error_description }),
    };
  },
};

const notConform = { status: 503, error: 'OAUTH_RESPONSE_IS_NOT_CONFORM', description: undefined };
const unavailable = {
  'simple-oauth2': { status: 406, error: undefined, description: undefined }, // its own, for a response that is not JSON
  oauth4webapi: notConform,
  'openid-client': notConform,
  '@badgateway/oauth2-client': { status: 503, error: undefined, description: undefined },
};

for (const [name, client] of Object.entries(clients)) {
  for (const delivery of ['get', 'post']) {
    test(`${name}, redirect by ${delivery}`, async () => {
      const fake = fakes[delivery];
      await steer(fake, 'reset');
      const { authorize, redeem, refresh, shown } = client(fake);
      const verifier = oauth.generateRandomCodeVerifier();
      const connect = async () => browse(await authorize(verifier));
      const fails = async (promise, want, why) => {
        const err = await promise.then(() => assert.fail(`no error: ${why}`), (err) => err);
        assert.deepEqual(shown(err), want, why);
      };
      const deadGrant = { status: 401, error: 'invalid_grant', description: 'Invalid refresh_token' };

      const first = await redeem(await connect(), verifier);
      assert.equal(first.expires_in, 3600);
      const second = await refresh(first.refresh_token);
      assert.notEqual(second.refresh_token, first.refresh_token);
      const me = await fetch(`${fake.api_url}/api/v1/me`, { headers: { authorization: `Bearer ${second.access_token}` } });
      assert.ok((await me.json()).orgDetails.orgId);
      await fails(refresh(first.refresh_token), deadGrant, 'a replaced refresh token');

      const wrongSecret = { status: 401, error: 'invalid_client', description: 'Invalid client_id or client_secret' };
      await fails(client(fake, { secret: 'wrong' }).refresh(second.refresh_token), wrongSecret, 'wrong secret');

      const mediaType = { status: 400, error: 'invalid_request', description: 'Unsupported Media Type for POST body. Must be json.' };
      await fails(client(fake, { json: false }).refresh(second.refresh_token), mediaType, 'a form');

      await steer(fake, 'fail', { status: 503, header: { 'Retry-After': '7' }, body: '<html>' });
      await fails(refresh(second.refresh_token), unavailable[name], '503');

      const late = await connect();
      await steer(fake, 'clock', { advance: '6m' });
      await fails(redeem(late, verifier), { ...deadGrant, status: 400 }, 'an expired code');

      await steer(fake, 'revoke', { refresh_token: second.refresh_token });
      await fails(refresh(second.refresh_token), deadGrant, 'revoked');

      await steer(fake, 'consent', { consent: 'deny' });
      await fails(redeem(await connect(), verifier), { status: undefined, error: 'access_denied', description: undefined }, 'denied');
      await steer(fake, 'consent', { consent: 'allow' });
    });
  }
}

// What each does of itself that costs tokens.
const habits = {
  'simple-oauth2': { keepsTheOldRefreshToken: false, follows307: false },
  oauth4webapi: { keepsTheOldRefreshToken: false, follows307: false },
  'openid-client': { keepsTheOldRefreshToken: false, follows307: false },
  '@badgateway/oauth2-client': { keepsTheOldRefreshToken: true, follows307: true }, // fetch does
};

for (const [name, client] of Object.entries(clients)) {
  test(`${name}, of itself`, async () => {
    const fake = fakes.get;
    await steer(fake, 'reset');
    const { refresh } = client(fake);
    const { refresh_token } = await steer(fake, 'connect');
    let kept = await refresh(refresh_token); // and so there is a connection to keep

    await steer(fake, 'fail', { status: 200, header: { 'Content-Type': 'application/json' }, body: '{"access_token":"a","token_type":"Bearer","expires_in":3600}' });
    const without = await refresh(kept.refresh_token);
    assert.equal(without.refresh_token === kept.refresh_token, habits[name].keepsTheOldRefreshToken, 'a refresh that returns no refresh token');

    for (const type of ['text/html', 'text/plain']) {
      await steer(fake, 'fail', { status: 200, header: { 'Content-Type': type }, body: '<a href="/login?next=/&access_token=1&x=2">Sign in</a>' });
      await assert.rejects(refresh(kept.refresh_token), undefined, `a page of ${type} is taken for a token`);
    }

    await steer(fake, 'fail', { status: 307, header: { Location: fake.token_url } });
    const followed = await refresh(kept.refresh_token).then((token) => (kept = token), () => undefined);
    assert.equal(followed !== undefined, habits[name].follows307, 'sent to where a 307 leads');

    const before = (await requests(fake)).length;
    await steer(fake, 'fail', { drop: true, takes_effect: true, times: -1 });
    await assert.rejects(refresh(kept.refresh_token));
    assert.equal((await requests(fake)).length, before + 1, 'sent again on a connection that broke');
    await steer(fake, 'heal');
  });
}

test('simple-oauth2, as a Service Account', async () => {
  const fake = fakes.get;
  const account = new ClientCredentials({
    client: { id: 'account', secret: 'secret' },
    auth: { tokenHost: fake.api_url, tokenPath: new URL(fake.token_url).pathname },
    options: { bodyFormat: 'json', authorizationMethod: 'body' },
  });
  const { token } = await account.getToken({ scope: 'business' });
  assert.ok(token.access_token);
  assert.equal(token.refresh_token, undefined);
});
