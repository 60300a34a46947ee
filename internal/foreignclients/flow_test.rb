# An OAuth client for Ruby that nobody here wrote completes the flow against examples/fakeapple, and sees its errors.
#
# It is Debian's package ruby-oauth2. Run: /usr/bin/ruby flow_test.rb

require "cgi"
require "digest"
require "json"
require "minitest/autorun"
require "net/http"
require "oauth2"
require "tmpdir"

VERIFIER = "a-verifier-of-at-least-forty-three-characters".freeze
CHALLENGE = [Digest::SHA256.digest(VERIFIER)].pack("m0").tr("+/", "-_").delete("=").freeze
DEAD_GRANT = [401, "invalid_grant", "Invalid refresh_token"].freeze

# Turns the parameters of a token request into the JSON that Apple wants.
class SendsJSON < Faraday::Middleware
  def call(env)
    if env[:body].is_a?(Hash)
      env[:body] = JSON.generate(env[:body])
      env[:request_headers]["Content-Type"] = "application/json"
    end
    @app.call(env)
  end
end

# The program, and its first line.
class Fake
  def initialize(binary, delivery)
    @out = IO.popen([binary, "-consent", "allow", "-deliver", delivery])
    @said = JSON.parse(@out.gets)
  end

  def [](name)
    @said.fetch(name)
  end

  def steer(route, **body)
    response = Net::HTTP.post(URI("#{self['api_url']}/_fake/#{route}"), JSON.generate(body), "Content-Type" => "application/json")
    raise response.body if response.code.to_i >= 300

    response.body && JSON.parse(response.body)
  end

  def requests
    JSON.parse(Net::HTTP.get(URI("#{self['api_url']}/_fake/requests")))
  end

  # Returns the parameters that the user's browser brings back: from a redirect, or from the form that a POST is made of.
  def browse(url)
    response = Net::HTTP.get_response(URI(url))
    target = response["Location"] || CGI.unescapeHTML(response.body[/action="([^"]*)"/, 1])
    URI.decode_www_form(URI(target).query).to_h
  end

  def close
    Process.kill("TERM", @out.pid)
    @out.close
    raise "the program ended with #{$?}" unless $?.success?
  end
end

class FlowTest < Minitest::Test
  FOLDER = Dir.mktmpdir
  BINARY = File.join(FOLDER, "fakeapple")
  system("go", "build", "-o", BINARY, "../../examples/fakeapple", chdir: __dir__, exception: true)
  FAKES = %w[get post].to_h { |delivery| [delivery, Fake.new(BINARY, delivery)] }
  Minitest.after_run do
    FAKES.each_value(&:close)
    FileUtils.rm_r(FOLDER)
  end

  def client(fake, secret: fake["client_secret"], as_json: true)
    OAuth2::Client.new(fake["client_id"], secret, site: fake["api_url"], authorize_url: fake["authorization_url"],
                                                  token_url: fake["token_url"], auth_scheme: :request_body) do |builder|
      as_json ? builder.use(SendsJSON) : builder.request(:url_encoded)
      builder.adapter(:net_http)
    end
  end

  # It has no PKCE, and does not look at the state and at an error of the redirect.
  def authorize(fake, client)
    fake.browse(client.auth_code.authorize_url(redirect_uri: fake["redirect_uris"][0], state: "state-1",
                                               code_challenge: CHALLENGE, code_challenge_method: "S256"))
  end

  def redeem(fake, client, redirect)
    assert_equal "state-1", redirect["state"]
    client.auth_code.get_token(redirect["code"], redirect_uri: fake["redirect_uris"][0], code_verifier: VERIFIER)
  end

  def refresh(client, token)
    OAuth2::AccessToken.from_hash(client, "access_token" => "a", "refresh_token" => token).refresh!
  end

  # Asserts what the client shows of an error.
  def fails(want, why, &call)
    error = assert_raises(OAuth2::Error, why, &call)
    assert_equal want, [error.response.status, error.code, error.description], why
  end

  FAKES.each do |delivery, fake|
    define_method("test_redirect_by_#{delivery}") do
      fake.steer("reset")
      using = client(fake)
      first = redeem(fake, using, authorize(fake, using))
      assert_equal 3600, first.expires_in
      second = refresh(using, first.refresh_token)
      refute_equal first.refresh_token, second.refresh_token
      assert JSON.parse(second.get("/api/v1/me").body).dig("orgDetails", "orgId")

      fails(DEAD_GRANT, "a replaced refresh token") { refresh(using, first.refresh_token) }
      fails([401, "invalid_client", "Invalid client_id or client_secret"], "wrong secret") do
        refresh(client(fake, secret: "wrong"), second.refresh_token)
      end
      fails([400, "invalid_request", "Unsupported Media Type for POST body. Must be json."], "a form") do
        refresh(client(fake, as_json: false), second.refresh_token)
      end
      fake.steer("fail", status: 503, header: { "Retry-After" => "7" }, body: "<html>")
      fails([503, nil, nil], "503") { refresh(using, second.refresh_token) }

      late = authorize(fake, using)
      fake.steer("clock", advance: "6m")
      fails([400, *DEAD_GRANT.drop(1)], "an expired code") { redeem(fake, using, late) }
      fake.steer("revoke", refresh_token: second.refresh_token)
      fails(DEAD_GRANT, "revoked") { refresh(using, second.refresh_token) }

      fake.steer("consent", consent: "deny")
      assert_equal "access_denied", authorize(fake, using)["error"]
    end
  end

  # What it does of itself that costs tokens: it keeps the refresh token that it has if a refresh returns none, and follows a 307.
  def test_of_itself
    fake = FAKES["get"]
    fake.steer("reset")
    using = client(fake)
    kept = refresh(using, fake.steer("connect")["refresh_token"]).refresh_token

    token = JSON.generate(access_token: "a", token_type: "Bearer", expires_in: 3600)
    fake.steer("fail", status: 200, header: { "Content-Type" => "application/json" }, body: token)
    assert_equal kept, refresh(using, kept).refresh_token

    %w[text/html text/plain].each do |type|
      fake.steer("fail", status: 200, header: { "Content-Type" => type }, body: '<a href="/login?next=/&access_token=1&x=2">Sign in</a>')
      fails([200, nil, nil], "a page of #{type} is taken for a token") { refresh(using, kept) }
    end

    before = fake.requests.length
    fake.steer("fail", status: 307, header: { "Location" => fake["token_url"] })
    kept = refresh(using, kept).refresh_token
    assert_equal before + 2, fake.requests.length, "not sent to where a 307 leads"

    fake.steer("fail", drop: true, takes_effect: true, times: -1)
    assert_raises(Faraday::ConnectionFailed, OAuth2::Error) { refresh(using, kept) }
    assert_equal before + 3, fake.requests.length, "sent again on a connection that broke"
    fake.steer("heal")
  end
end
