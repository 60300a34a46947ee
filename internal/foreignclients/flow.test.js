// OAuth clients that nobody here wrote complete the flow against examples/fakeapple, and see the documented errors.
// Run: npm ci && npm test

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import * as oauth from 'oauth4webapi';
import { AuthorizationCode, ClientCredentials } from 'simple-oauth2';

const state = 'state-1';
const folder = mkdtempSync(join(tmpdir(), 'foreignclients-'));
let program;
let fake; // the program's first line

before(async () => {
  const binary = join(folder, 'fakeapple.exe'); // a name that runs everywhere
  execFileSync('go', ['build', '-o', binary, '../../examples/fakeapple'], { cwd: import.meta.dirname, stdio: 'inherit' });
  program = spawn(binary, ['-consent', 'allow', '-service-account', 'account:secret'], { stdio: ['ignore', 'pipe', 'inherit'] });
  const [line] = await once(createInterface(program.stdout), 'line', { signal: AbortSignal.timeout(30_000) });
  fake = JSON.parse(line);
});

after(async () => {
  if (program?.kill('SIGTERM')) {
    assert.deepEqual(await once(program, 'exit'), [0, null]);
  }
  rmSync(folder, { recursive: true });
});

async function steer(route) {
  const response = await fetch(`${fake.api_url}/_fake/${route}`, { method: 'POST' });
  assert.equal(response.status, 204);
}

// browse returns the URL that the user's browser brings back.
async function browse(url) {
  const response = await fetch(url, { redirect: 'manual' });
  assert.equal(response.status, 302);
  return new URL(response.headers.get('location'));
}

test('simple-oauth2', async () => {
  const config = (id, secret, auth) => ({
    client: { id, secret },
    auth: { tokenHost: fake.api_url, tokenPath: new URL(fake.token_url).pathname, ...auth },
    options: { bodyFormat: 'json', authorizationMethod: 'body' },
  });
  const authorizePath = new URL(fake.authorization_url).pathname;
  const client = new AuthorizationCode(config(fake.client_id, fake.client_secret, { authorizePath }));
  const [redirect_uri] = fake.redirect_uris;
  const code_verifier = oauth.generateRandomCodeVerifier(); // simple-oauth2 has none
  const code_challenge = await oauth.calculatePKCECodeChallenge(code_verifier);
  const url = client.authorizeURL({ redirect_uri, state, code_challenge, code_challenge_method: 'S256' });
  const callback = await browse(url);
  assert.equal(callback.searchParams.get('state'), state);

  const first = await client.getToken({ code: callback.searchParams.get('code'), redirect_uri, code_verifier });
  assert.equal(first.expired(), false);
  const second = await first.refresh();
  assert.notEqual(second.token.refresh_token, first.token.refresh_token);

  const failure = (status, error, error_description) => (err) => {
    assert.equal(err.output.statusCode, status);
    assert.deepEqual(err.data.payload, { error, error_description });
    return true;
  };
  const stale = new AuthorizationCode(config(fake.client_id, 'wrong')).createToken(second.token);
  await assert.rejects(stale.refresh(), failure(401, 'invalid_client', 'Invalid client_id or client_secret'));
  await steer('fail?reason=server&status=503');
  await assert.rejects(second.refresh(), failure(503, 'internal_server_error', 'server error'));
  await steer(`revoke?refresh_token=${second.token.refresh_token}`);
  await assert.rejects(second.refresh(), failure(401, 'invalid_grant', 'Invalid refresh_token'));

  const account = new ClientCredentials(config('account', 'secret'));
  const { token } = await account.getToken({ scope: 'business' });
  assert.ok(token.access_token);
  assert.equal(token.refresh_token, undefined);
});

test('oauth4webapi', async () => {
  const server = {
    issuer: fake.api_url,
    authorization_endpoint: fake.authorization_url,
    token_endpoint: fake.token_url,
  };
  const client = { client_id: fake.client_id };
  const secret = oauth.ClientSecretPost(fake.client_secret);
  const options = {
    [oauth.allowInsecureRequests]: true,
    // It sends forms, Apple wants JSON.
    [oauth.customFetch]: (url, init) =>
      fetch(url, {
        ...init,
        headers: { ...init.headers, 'content-type': 'application/json' },
        body: JSON.stringify(Object.fromEntries(init.body)),
      }),
  };
  const [redirectURI] = fake.redirect_uris;
  const verifier = oauth.generateRandomCodeVerifier();
  const authorize = new URL(server.authorization_endpoint);
  authorize.search = new URLSearchParams({
    client_id: client.client_id,
    response_type: 'code',
    redirect_uri: redirectURI,
    state,
    code_challenge: await oauth.calculatePKCECodeChallenge(verifier),
    code_challenge_method: 'S256',
  });

  const params = oauth.validateAuthResponse(server, client, await browse(authorize), state);
  const exchange = () => oauth.authorizationCodeGrantRequest(server, client, secret, params, redirectURI, verifier, options);
  const token = await oauth.processAuthorizationCodeResponse(server, client, await exchange());
  assert.equal(token.expires_in, 3600);
  const me = await oauth.protectedResourceRequest(token.access_token, 'GET', new URL(`${fake.api_url}/api/v1/me`), undefined, undefined, {
    [oauth.allowInsecureRequests]: true,
  });
  assert.ok((await me.json()).orgDetails.legalName);

  const refresh = async (secret) =>
    oauth.processRefreshTokenResponse(
      server,
      client,
      await oauth.refreshTokenGrantRequest(server, client, secret, token.refresh_token, options),
    );
  const failure = (status, error, error_description) => ({ name: 'ResponseBodyError', status, error, error_description });
  await assert.rejects(
    async () => oauth.processAuthorizationCodeResponse(server, client, await exchange()),
    failure(400, 'invalid_grant', 'Invalid refresh_token'),
    'a code is used once',
  );
  await assert.rejects(refresh(oauth.ClientSecretPost('wrong')), failure(401, 'invalid_client', 'Invalid client_id or client_secret'));
  await steer('fail?status=503');
  await assert.rejects(refresh(secret), { name: 'OperationProcessingError', code: 'OAUTH_RESPONSE_IS_NOT_CONFORM' });
  await steer(`revoke?refresh_token=${token.refresh_token}`);
  await assert.rejects(refresh(secret), failure(401, 'invalid_grant', 'Invalid refresh_token'));

  await steer('fail?reason=server&status=0');
  const failed = await browse(authorize);
  assert.throws(() => oauth.validateAuthResponse(server, client, failed, state), {
    name: 'AuthorizationResponseError',
    error: 'server_error',
    error_description: 'server error',
  });
});
