// Several tabs are one device: they tell each other what has changed, and one of them leads.
// Only that one catches up with the mailbox and acknowledges, so nothing is acknowledged before it is kept.

const NAME = "chatsvc";

export class Tabs {
  #channel = new BroadcastChannel(NAME);
  leads = false;

  /** @param {(news: any) => void} onNews hears what other tabs say */
  constructor(onNews) {
    this.#channel.onmessage = (event) => onNews(event.data);
  }

  /** Tell the other tabs. @param {any} news */
  tell(news) {
    this.#channel.postMessage(news);
  }

  /**
   * Lead as soon as no other tab does, for as long as this one lives. Where a page is not secure, browsers have no
   * locks: then each tab leads, and all that is lost is that several ask for the same.
   * @param {() => void} onLead
   */
  lead(onLead) {
    const begin = () => {
      this.leads = true;
      onLead();
      return new Promise(() => {});
    };
    if (navigator.locks) void navigator.locks.request(NAME, begin);
    else void begin();
  }
}
