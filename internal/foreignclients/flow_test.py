"""OAuth clients for Python that nobody here wrote complete the flow against examples/fakeapple, and see its errors.

They are Debian's packages python3-authlib and python3-requests-oauthlib. Run: /usr/bin/python3 flow_test.py
"""

import html
import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest
import urllib.parse

os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"  # the fake speaks HTTP
os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"

import requests
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client import OAuth2Session as AuthlibSession
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from oauthlib.oauth2 import OAuth2Error
from requests.adapters import HTTPAdapter
from requests_oauthlib import OAuth2Session
from urllib3.util import Retry

HERE = os.path.dirname(os.path.abspath(__file__))
VERIFIER = "a-verifier-of-at-least-forty-three-characters"


class JSONAdapter(HTTPAdapter):
    """Turns the form of a token request into the JSON that Apple wants."""

    def send(self, request, **kwargs):
        if request.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded"):
            request.prepare_body(None, None, dict(urllib.parse.parse_qsl(request.body)))
            request.headers["Content-Type"] = "application/json"
        return super().send(request, **kwargs)


class Fake:
    """The program, and its first line."""

    def __init__(self, binary, delivery):
        self.program = subprocess.Popen(
            [binary, "-consent", "allow", "-deliver", delivery], stdout=subprocess.PIPE, text=True
        )
        self.__dict__.update(json.loads(self.program.stdout.readline()))

    def steer(self, route, **body):
        response = requests.post(f"{self.api_url}/_fake/{route}", json=body)
        response.raise_for_status()
        return response.json() if response.status_code == 200 else None

    def requests(self):
        return requests.get(f"{self.api_url}/_fake/requests").json()

    def browse(self, url):
        """Returns the URL that the user's browser brings back: from a redirect, or from the form that a POST is made of."""
        response = requests.get(url, allow_redirects=False)
        location = response.headers.get("Location")
        return location or html.unescape(re.search(r'action="([^"]*)"', response.text).group(1))

    def close(self):
        self.program.terminate()
        assert self.program.wait() == 0
        self.program.stdout.close()


class RequestsOAuthlib:
    """Before version 2 it has no PKCE: the verifier is the caller's."""

    def __init__(self, fake, secret=None, as_json=True):
        self.fake, self.secret = fake, secret or fake.client_secret
        self.session = OAuth2Session(fake.client_id, redirect_uri=fake.redirect_uris[0], state="state-1")
        if as_json:
            self.session.mount(fake.api_url, JSONAdapter())

    def authorize(self):
        url, _ = self.session.authorization_url(
            self.fake.authorization_url, code_challenge=create_s256_code_challenge(VERIFIER), code_challenge_method="S256"
        )
        return url

    def redeem(self, url):
        # It wants an authorization_response over TLS, and reads the error of a redirect.
        return self.session.fetch_token(
            self.fake.token_url, authorization_response=url, client_secret=self.secret, include_client_id=True, code_verifier=VERIFIER
        )

    def refresh(self, token):
        return self.session.refresh_token(
            self.fake.token_url, refresh_token=token, client_id=self.fake.client_id, client_secret=self.secret
        )

    def shown(self, error):
        if not isinstance(error, OAuth2Error):
            return type(error).__name__
        return f"{type(error).__name__}: {error.error}: {error.description or ''}"


class Authlib:
    def __init__(self, fake, secret=None, as_json=True):
        self.fake = fake
        self.session = AuthlibSession(
            fake.client_id,
            secret or fake.client_secret,
            redirect_uri=fake.redirect_uris[0],
            state="state-1",
            code_challenge_method="S256",
            token_endpoint_auth_method="client_secret_post",
        )
        if as_json:
            self.session.mount(fake.api_url, JSONAdapter())

    def authorize(self):
        url, _ = self.session.create_authorization_url(self.fake.authorization_url, state="state-1", code_verifier=VERIFIER)
        return url

    def redeem(self, url):
        # Not every version looks at an error of the redirect: without a code it then asks for client_credentials.
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query))
        if "error" in query:
            raise AuthlibBaseError(query["error"], query.get("error_description"))
        return self.session.fetch_token(self.fake.token_url, authorization_response=url, code_verifier=VERIFIER)

    def refresh(self, token):
        return self.session.refresh_token(self.fake.token_url, refresh_token=token)

    def shown(self, error):
        if not isinstance(error, AuthlibBaseError):
            return type(error).__name__
        return f"{type(error).__name__}: {error.error}: {error.description or ''}"


# What each shows of the six errors.
SHOWN = {
    RequestsOAuthlib: {
        "replaced": "InvalidGrantError: invalid_grant: Invalid refresh_token",
        "wrong secret": "InvalidClientError: invalid_client: Invalid client_id or client_secret",
        "media type": "InvalidClientIdError: invalid_request: Unsupported Media Type for POST body. Must be json.",
        "503": "MissingTokenError: missing_token: Missing access token parameter.",
        "expired code": "InvalidGrantError: invalid_grant: Invalid refresh_token",
        "revoked": "InvalidGrantError: invalid_grant: Invalid refresh_token",
        "denied": "AccessDeniedError: access_denied: ",
    },
    Authlib: {
        "replaced": "OAuthError: invalid_grant: Invalid refresh_token",
        "wrong secret": "OAuthError: invalid_client: Invalid client_id or client_secret",
        "media type": "OAuthError: invalid_request: Unsupported Media Type for POST body. Must be json.",
        "503": "HTTPError",  # of requests, with the response in it
        "expired code": "OAuthError: invalid_grant: Invalid refresh_token",
        "revoked": "OAuthError: invalid_grant: Invalid refresh_token",
        "denied": "AuthlibBaseError: access_denied: ",
    },
}


# What each makes of a page at status 200 whose text holds access_token=1&: a token, or an error.
TAKES_A_PAGE = {RequestsOAuthlib: "1", Authlib: "JSONDecodeError"}


class FlowTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        binary = os.path.join(cls.folder.name, "fakeapple")
        subprocess.run(["go", "build", "-o", binary, "../../examples/fakeapple"], cwd=HERE, check=True)
        cls.fakes = {delivery: Fake(binary, delivery) for delivery in ("get", "post")}

    @classmethod
    def tearDownClass(cls):
        for fake in cls.fakes.values():
            fake.close()
        cls.folder.cleanup()

    def test_flows(self):
        for client in SHOWN:
            for delivery, fake in self.fakes.items():
                with self.subTest(client=client.__name__, delivery=delivery):
                    fake.steer("reset")
                    self.flow(client, fake)

    def flow(self, client, fake):
        def fails(call, why):
            try:
                call()
            except Exception as error:  # what a client shows of a failure is what is tried
                self.assertEqual(SHOWN[client][why], using.shown(error), why)
            else:
                self.fail(why)

        using = client(fake)
        first = using.redeem(fake.browse(using.authorize()))
        self.assertEqual(3600, first["expires_in"])
        second = using.refresh(first["refresh_token"])
        self.assertNotEqual(first["refresh_token"], second["refresh_token"])
        newest = second["refresh_token"]
        me = requests.get(f"{fake.api_url}/api/v1/me", headers={"Authorization": f"Bearer {second['access_token']}"})
        self.assertTrue(me.json()["orgDetails"]["orgId"])

        fails(lambda: using.refresh(first["refresh_token"]), "replaced")
        fails(lambda: client(fake, secret="wrong").refresh(newest), "wrong secret")
        fails(lambda: client(fake, as_json=False).refresh(newest), "media type")
        fake.steer("fail", status=503, header={"Retry-After": "7"}, body="<html>")
        fails(lambda: using.refresh(newest), "503")

        late_client = client(fake)
        late = fake.browse(late_client.authorize())
        fake.steer("clock", advance="6m")
        fails(lambda: late_client.redeem(late), "expired code")
        fake.steer("revoke", refresh_token=newest)
        fails(lambda: client(fake).refresh(newest), "revoked")

        fake.steer("consent", consent="deny")
        denied = client(fake)
        redirect = fake.browse(denied.authorize())
        fails(lambda: denied.redeem(redirect), "denied")
        fake.steer("consent", consent="allow")


    def spends(self, send):
        """Lets a response be lost after its request took effect; send gets a refresh token, and sends on a connection that is kept."""
        fake = self.fakes["get"]
        fake.steer("reset")
        params = {"grant_type": "refresh_token", "client_id": fake.client_id, "client_secret": fake.client_secret}
        params["refresh_token"] = fake.steer("connect")["refresh_token"]
        fake.steer("fail", drop=True, takes_effect=True)
        send(fake, json.dumps(params))
        self.assertEqual([0, 401], [request["status"] for request in fake.requests()], "it took effect, and was sent again")

    def test_retries_spend_a_refresh_token(self):
        """requests does not retry; with urllib3's Retry for POST, a lost response looks like a dead grant."""

        def send(fake, body):
            session = requests.Session()
            session.mount("http://", HTTPAdapter(max_retries=Retry(3, allowed_methods=None)))
            session.get(f"{fake.api_url}/_fake/health")
            response = session.post(fake.token_url, data=body, headers={"Content-Type": "application/json"})
            self.assertEqual("Invalid refresh_token", response.json()["error_description"])

        self.spends(send)

    @unittest.skipUnless(shutil.which("curl"), "there is no curl")
    def test_curl_spends_a_refresh_token(self):
        """libcurl sends again, unasked, when a connection breaks that it had kept."""

        def send(fake, body):
            post = ["--data", body, "--header", "Content-Type: application/json", fake.token_url]
            subprocess.run(["curl", "-sS", f"{fake.api_url}/_fake/health", "--next", "-sS", *post], check=True, capture_output=True)

        self.spends(send)

    def test_of_itself(self):
        """What each does of itself that costs tokens. Both keep the refresh token that they have if a refresh returns none."""
        fake = self.fakes["get"]
        for client in SHOWN:
            with self.subTest(client=client.__name__):
                fake.steer("reset")
                using = client(fake)
                kept = using.refresh(fake.steer("connect")["refresh_token"])["refresh_token"]  # and so there is a connection to keep

                token = {"access_token": "a", "token_type": "Bearer", "expires_in": 3600}
                fake.steer("fail", status=200, header={"Content-Type": "application/json"}, body=json.dumps(token))
                self.assertEqual(kept, using.refresh(kept)["refresh_token"])

                for media_type in ("text/html", "text/plain"):
                    page = '<a href="/login?next=/&access_token=1&x=2">Sign in</a>'
                    fake.steer("fail", status=200, header={"Content-Type": media_type}, body=page)
                    try:
                        shown = using.refresh(kept)["access_token"]
                    except Exception as error:  # what a client makes of a page is what is tried
                        shown = type(error).__name__
                    self.assertEqual(TAKES_A_PAGE[client], shown, media_type)

                fake.steer("fail", status=307, header={"Location": fake.token_url})
                kept = using.refresh(kept)["refresh_token"]  # sent to where the 307 leads, with the secret

                before = len(fake.requests())
                fake.steer("fail", drop=True, takes_effect=True, times=-1)
                self.assertRaises(requests.ConnectionError, using.refresh, kept)
                self.assertEqual(before + 1, len(fake.requests()), "sent again on a connection that broke")
                fake.steer("heal")


if __name__ == "__main__":
    unittest.main()
