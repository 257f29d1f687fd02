from ipaddress import ip_address

import pytest
from cmdc_gateway.errors import RegistrationFailed
from cmdc_gateway.tools.callbacks.addresses import AddressPolicy
from cmdc_gateway.tools.callbacks.url import MAX_URL, CallbackUrl, InvalidUrl
from cmdc_testkit.addresses import DISGUISED, FORBIDDEN
from hypothesis import given
from hypothesis import strategies as st

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.1",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.1",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2606:4700::1111",
    "2a00:1450:4001::200e",
    "2001:4860:4860::8888",
    "2400:cb00::1",
]
# Each once: `[::1]` stands in both lists.
LITERALS = list(dict.fromkeys([*DISGUISED, *(f"[{a}]" if ":" in a else a for a in FORBIDDEN)]))


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_allowed(address: str) -> None:
    assert AddressPolicy().is_allowed(address)


@pytest.mark.parametrize("address", FORBIDDEN)
def test_an_address_that_is_not_public_is_forbidden(address: str) -> None:
    assert not AddressPolicy().is_allowed(address)


@pytest.mark.parametrize("host", LITERALS)
@pytest.mark.parametrize("form", ["http://{}/", "https://{}:8443/x?y=z", "HTTP://{}"])
def test_a_forbidden_address_is_rejected_at_registration_in_any_notation(host: str, form: str) -> None:
    with pytest.raises(RegistrationFailed):
        AddressPolicy().check_url(form.format(host))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "127.0.0.1."])
def test_an_allowed_network_is_allowed_in_any_notation(host: str) -> None:
    AddressPolicy(["127.0.0.0/8"]).check_url(f"http://{host}:8080/x")

    assert CallbackUrl.parse(f"http://{host}:8080/x").host == "127.0.0.1"


def test_an_allowed_network_does_not_allow_its_embedded_addresses() -> None:
    policy = AddressPolicy(["127.0.0.0/8", "10.0.0.7"])

    assert policy.is_allowed("127.9.9.9")
    assert policy.is_allowed("10.0.0.7")
    for address in ("10.0.0.8", "::1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1", "2002:7f00:1::", "169.254.169.254"):
        assert not policy.is_allowed(address)


def test_an_allowed_host_allows_its_addresses_and_no_other_host() -> None:
    policy = AddressPolicy(["Tools.Internal."])

    assert policy.is_allowed("10.0.0.7", "tools.internal")
    assert not policy.is_allowed("10.0.0.7", "x.tools.internal")
    assert not policy.is_allowed("10.0.0.7")


@pytest.mark.parametrize(
    "entry", ["", "127.0.0.1/8", "10.0.0.0/99", "*", "*.example.com", "http://x", "::1/0x", "127.1"]
)
def test_an_invalid_entry_is_an_error(entry: str) -> None:
    with pytest.raises(ValueError, match="network"):
        AddressPolicy([entry])


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "1.2.3.4 ", "0x7f000001"])
def test_text_that_is_not_an_address_is_not_allowed(text: str) -> None:
    assert not AddressPolicy(["0.0.0.0/0", "::/0"]).is_allowed(text)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com",
        "https://example.com/",
        "https://Example.COM:8443/a/b?c=d&e=%20",
        "http://my_service.internal:80/",
        "http://localhost:8080/checked-when-connecting",
        "https://xn--mnchen-3ya.de/",
        "http://8.8.8.8/",
        "http://[2606:4700::1111]:8080/",
    ],
)
def test_a_valid_url_is_accepted(url: str) -> None:
    AddressPolicy().check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "//example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "unix:///var/run/x.sock",
        "http+unix://x/",
        "javascript:alert(1)",
        "http:/example.com/",
        "http:///path",
        "http://",
        "http://?x",
        "http://:80/",
        "http://user@example.com/",
        "http://user:password@example.com/",
        "http://example.com@127.0.0.1/",
        "http://127.0.0.1\\@example.com/",
        "http://example.com\\.evil/",
        "http://example.com/#fragment",
        "http://example.com/#",
        "http://example.com:0/",
        "http://example.com:65536/",
        "http://example.com:/",
        "http://example.com:http/",
        "http://example.com:+80/",
        "http://example.com:８０/",
        "http://exam ple.com/",
        "http://example.com/a b",
        "http://example.com/\r\nX-Injected: 1",
        "http://example.com/\t",
        " http://example.com/",
        "http://example.com/ ",
        "http://example.com/\x00",
        "http://example.com/é",
        "http://münchen.de/",
        "http://example..com/",
        "http://.example.com/",
        "http://-example.com/",
        "http://example.com../",
        f"http://{'a' * 64}.com/",
        f"http://{'a.' * 130}com/",
        "http://example.com/" + "x" * MAX_URL,
    ],
)
def test_an_invalid_url_is_rejected_without_being_repeated(url: str) -> None:
    with pytest.raises(RegistrationFailed) as raised:
        AddressPolicy(["0.0.0.0/0", "::/0"]).check_url(url)

    assert "password" not in str(raised.value).replace("user name or password", "")
    assert len(str(raised.value)) < 200


def test_a_url_with_a_user_name_is_rejected() -> None:
    with pytest.raises(RegistrationFailed, match="user name or password"):
        AddressPolicy().check_url("http://user:pw@example.com/")


def test_a_url_is_parsed() -> None:
    url = CallbackUrl.parse("HTTPS://Tools.Example.com.:8443?secret=x")

    assert (url.scheme, url.host, url.port, url.target) == ("https", "tools.example.com", 8443, "/?secret=x")
    assert url.origin == "https://tools.example.com:8443"
    assert CallbackUrl.parse("http://[2606:4700::1]/").authority == "[2606:4700::1]"


@given(st.text(max_size=60) | st.from_regex(r"https?://[0-9a-fx.\[\]:%@]{0,30}(/.*)?", fullmatch=True))
def test_a_host_is_either_an_address_or_does_not_end_in_a_number(text: str) -> None:
    try:
        url = CallbackUrl.parse(text)
    except InvalidUrl:
        return

    assert url.host.isascii()
    if url.address is None:
        assert not url.host.rpartition(".")[2].isdigit()
    else:
        assert ip_address(url.host) == url.address
