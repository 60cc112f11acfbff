from leadctl.testing.contract import ChannelContract


class TestContract(ChannelContract):
    name = "amocrm"
    data = {
        "subdomain": "acme",
        "access_token": "canary-access-0123456789",
        "refresh_token": "canary-refresh-0123456789",
        "client_id": "canary-client",
        "client_secret": "canary-secret-0123456789",
        "redirect_uri": "https://example.com/oauth",
    }
    settings = {"pipeline_id": 3383152, "status_id": 33929749, "external_id_field_id": 771001}
    bad_data = {"access_token": "wrong-0123456789"}
    done = {"lead": "9774766"}
